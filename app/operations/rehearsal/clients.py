"""Sockets of the official Python client: each records its notifications and when it was disconnected and reconnected."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import engineio
import gevent
import requests
import socketio
from engineio.packet import MESSAGE, Packet
from gevent.pool import Pool

from app.operations.rehearsal.measurements import SocketOutage, SocketRecord
from app.operations.rehearsal.stop_checks import is_named
from app.operations.rehearsal.users import RehearsalUser

CONCURRENT_CONNECTS = 10
BYSTANDERS_PER_USER = 5
SLOW_RECONNECTION = {"reconnection_delay": 3, "randomization_factor": 2.5}  # 0.5 to 5.5 s
DELIVERY_SECONDS = 1.0
WAIT_SECONDS = 10.0  # for the server's response to the first connection
CLOSE_SECONDS = 5.0  # a socket that is reconnecting first ends its attempt
TRANSPORTS = [["websocket"]] * 4 + [["polling"], None]  # in rotation; None: the client's default, polling and then an upgrade


class _Engine(engineio.Client):  # type: ignore[misc] # no type hints
    """Reports messages in the order on the wire. The library handles each in its own thread, so its handlers can be reordered."""

    on_message: Callable[[str], None]

    def _receive_packet(self, packet: Packet) -> None:
        if packet.packet_type == MESSAGE:
            self.on_message(packet.data)
        super()._receive_packet(packet)


class _Client(socketio.Client):  # type: ignore[misc]
    def _engineio_client_class(self) -> type[_Engine]:
        return _Engine


class SocketClient:
    """One socket that reconnects as the official client does."""

    def __init__(self, url: str, user: RehearsalUser, transports: list[str] | None, **reconnection: float) -> None:
        """`reconnection` replaces the client's default delays."""
        self.record = SocketRecord(user.id, is_bystander=bool(reconnection))
        self.instance = ""
        self.last_seq = 0  # the user is new, so the first connection asks for all notifications
        self._url = url
        self._cookie = user.cookie
        self._transports = transports
        self._is_closed = False
        http = _http_session()
        http.headers["Cookie"] = user.cookie  # the client sends `headers` with its first request only
        self._client = _Client(handle_sigint=False, http_session=http, **reconnection)
        self._client.eio.on_message = self._on_message
        self._client.on("disconnect", self._on_disconnect)
        self._client.on("connect_error", self._on_connect_error)

    def connect(self) -> None:
        """Try until the socket is connected or finally refused."""
        try:
            self._client.connect(
                self._url,
                headers=lambda: {"Cookie": self._cookie},  # a new dict each time: the client removes the cookie from it
                auth=lambda: {"after": self.last_seq},
                transports=self._transports,
                wait_timeout=WAIT_SECONDS,
                retry=True,
            )
        except socketio.exceptions.ConnectionError:
            return  # reported as a socket that is not connected

    def close(self) -> None:
        self._is_closed = True
        self._client.shutdown()

    def _on_message(self, message: str) -> None:
        if not message.startswith("2["):  # an event
            return
        event, data = json.loads(message[1:])
        if event == "notification":
            self.record.received.append((time.monotonic(), data["seq"]))
            self.last_seq = max(self.last_seq, data["seq"])
        elif event == "ready":
            self._on_ready(data["instance_id"])
        elif event == "session_ended":
            self.record.signed_out = True

    def _on_ready(self, instance_id: str) -> None:
        self.instance, self.record.connected = instance_id, True
        if self.record.outages and self.record.outages[-1].back_at is None:
            self.record.outages[-1].back_at = time.monotonic()

    def _on_disconnect(self, *_: Any) -> None:
        if self.record.connected and not self._is_closed:
            self.record.connected = False
            self.record.outages.append(SocketOutage(time.monotonic(), self.instance))

    def _on_connect_error(self, reason: Any) -> None:
        if self.record.outages:
            self.record.outages[-1].failed_attempts += 1
        if isinstance(reason, dict) and reason.get("message") == "unauthorized":
            self.record.signed_out = True


class ClientPool:
    """The sockets of a rehearsal: those that receive notifications, and bystanders.

    Bystanders show how fast an instance closes its sockets. They reconnect slowly, so that many of them cost little.
    """

    def __init__(
        self,
        url: str,
        users: Sequence[RehearsalUser],
        per_user: int,
        bystanders: Sequence[RehearsalUser],
        offered_transports: Sequence[str],
    ) -> None:
        self.accepted: Mapping[int, dict[int, float]] = {}  # user ID -> seq -> time; the notifications that are due
        transports = TRANSPORTS if "polling" in offered_transports else TRANSPORTS[:1]
        owners = [user for _ in range(per_user) for user in users]
        self._receivers = [SocketClient(url, user, transports[number % len(transports)]) for number, user in enumerate(owners)]
        idle = [user for _ in range(BYSTANDERS_PER_USER) for user in bystanders]
        self._bystanders = [SocketClient(url, user, TRANSPORTS[0], **SLOW_RECONNECTION) for user in idle]
        self.records = [client.record for client in self._all]

    @property
    def _all(self) -> list[SocketClient]:
        return self._receivers + self._bystanders

    def connect(self) -> None:
        pool = Pool(CONCURRENT_CONNECTS)
        try:
            for client in self._all:
                pool.spawn(client.connect)
            pool.join(timeout=3 * WAIT_SECONDS)
        except KeyboardInterrupt:
            pool.kill(block=False)
            raise

    def close_bystanders(self) -> None:
        bystanders, self._bystanders = self._bystanders, []
        _close(bystanders)

    def close(self) -> None:
        _close(self._all)

    def is_settled(self) -> bool:
        """Return whether all signed-in clients are connected and have the notifications accepted more than a second ago."""
        before = time.monotonic() - DELIVERY_SECONDS
        due = {user: next((seq for seq, at in reversed(seqs.items()) if at < before), 0) for user, seqs in self.accepted.items()}
        signed_in = [client for client in self._all if not client.record.signed_out]
        return all(client.record.connected and client.last_seq >= due.get(client.record.user_id, 0) for client in signed_in)

    def closings(self, instance: str, since: float) -> list[float]:
        """Return the times at which sockets of the instance were closed."""
        outages = [outage for record in self.records for outage in record.outages]
        return [outage.lost_at for outage in outages if outage.lost_at >= since and is_named(outage.instance, [instance])]

    def count(self, instance: str) -> int:
        """Return how many sockets the instance holds."""
        return sum(client.record.connected and is_named(client.instance, [instance]) for client in self._all)


def _close(clients: Sequence[SocketClient]) -> None:
    gevent.joinall([gevent.spawn(client.close) for client in clients], timeout=CLOSE_SECONDS)


def _http_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxies, and no read of ~/.netrc for each request
    session.verify = os.environ.get("SSL_CERT_FILE", True)  # the variable that Python's ssl module uses too
    return session
