"""Sockets of the official Python client, left to themselves: each notes what it is told, when it is lost and when it is back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import engineio
import requests
import socketio
from engineio.packet import MESSAGE, Packet
from gevent.pool import Pool

from app.operations.rehearsal.measurements import Outage, Socket
from app.operations.rehearsal.people import Person
from app.operations.rehearsal.stops import is_named

AT_ONCE = 10
BYSTANDERS_PER_USER = 5
AT_LEISURE = {"reconnection_delay": 3, "randomization_factor": 2.5}  # 0.5 to 5.5 s
PATIENCE_SECONDS = 1.0
WAIT_SECONDS = 10.0  # for the server's answer to the first connection
WAYS = [["websocket"]] * 4 + [["polling"], None]  # by turns; None: the client's own, polling and then an upgrade


class _Engine(engineio.Client):  # type: ignore[misc] # no type hints
    """Tells of messages as they come on the wire: the library gives each a thread of its own, which overtake each other."""

    overhear: Callable[[str], None]

    def _receive_packet(self, packet: Packet) -> None:
        if packet.packet_type == MESSAGE:
            self.overhear(packet.data)
        super()._receive_packet(packet)


class _Client(socketio.Client):  # type: ignore[misc]
    def _engineio_client_class(self) -> type[_Engine]:
        return _Engine


class Listener:
    """One socket, with the client's own ways of coming back."""

    def __init__(self, url: str, person: Person, transports: list[str] | None, **reconnection: float) -> None:
        """`reconnection`: other habits of coming back than the client has by itself."""
        self.socket = Socket(person.id, is_bystander=bool(reconnection))
        self._url = url
        self._cookie = person.cookie
        self._transports = transports
        self._after = 0  # the user is new: from the first notification on
        self.instance = ""
        self._closed = False
        self._client = _Client(handle_sigint=False, http_session=_http_session(), **reconnection)
        self._client.eio.overhear = self._overhear
        self._client.on("disconnect", self._lost)
        self._client.on("connect_error", self._refused)

    def connect(self) -> None:
        """Goes on until it is let in, or refused for good."""
        try:
            self._client.connect(
                self._url,
                headers=lambda: {"Cookie": self._cookie},  # anew each time: the client takes it out of what it is given
                auth=lambda: {"after": self._after},
                transports=self._transports,
                wait_timeout=WAIT_SECONDS,
                retry=True,
            )
        except socketio.exceptions.ConnectionError:
            return  # seen as a socket that is not connected

    def close(self) -> None:
        self._closed = True
        self._client.shutdown()

    @property
    def last_seq(self) -> int:
        return self._after

    def _overhear(self, message: str) -> None:
        if not message.startswith("2["):  # an event
            return
        event, data = json.loads(message[1:])
        if event == "notification":
            self.socket.heard.append((time.monotonic(), data["seq"]))
            self._after = max(self._after, data["seq"])
        elif event == "ready":
            self._back(data["instance_id"])
        elif event == "session_ended":
            self.socket.signed_out = True

    def _back(self, instance_id: str) -> None:
        self.instance, self.socket.connected = instance_id, True
        if self.socket.outages and self.socket.outages[-1].back_at is None:
            self.socket.outages[-1].back_at = time.monotonic()

    def _lost(self, *_: Any) -> None:
        if self.socket.connected and not self._closed:
            self.socket.connected = False
            self.socket.outages.append(Outage(time.monotonic(), self.instance))

    def _refused(self, reason: Any) -> None:
        if isinstance(reason, dict) and reason.get("message") == "unauthorized":
            self.socket.signed_out = True


class Listeners:
    """Those that are told things; and bystanders, who show how fast an instance closes its sockets, and take their time to come
    back, so that many of them cost little."""

    def __init__(
        self, url: str, people: Sequence[Person], per_person: int, bystanders: Sequence[Person], transports: Sequence[str]
    ) -> None:
        """`transports`: that the fleet offers."""
        ways = WAYS if "polling" in transports else WAYS[:1]
        owners = [person for _ in range(per_person) for person in people]
        self._told = [Listener(url, person, ways[number % len(ways)]) for number, person in enumerate(owners)]
        idle = [person for _ in range(BYSTANDERS_PER_USER) for person in bystanders]
        self._bystanders = [Listener(url, person, WAYS[0], **AT_LEISURE) for person in idle]
        self.sockets = [listener.socket for listener in self._all]

    @property
    def _all(self) -> list[Listener]:
        return self._told + self._bystanders

    def connect(self) -> None:
        _each(self._all, Listener.connect, 3 * WAIT_SECONDS)

    def dismiss_bystanders(self) -> None:
        bystanders, self._bystanders = self._bystanders, []
        _each(bystanders, Listener.close, WAIT_SECONDS)

    def close(self) -> None:
        _each(self._all, Listener.close, WAIT_SECONDS)

    def is_calm(self, accepted: Mapping[int, dict[int, float]]) -> bool:
        """Whether all who are still signed in are connected, and have heard what was accepted a second ago."""
        before = time.monotonic() - PATIENCE_SECONDS
        due = {user: next((seq for seq, at in reversed(seqs.items()) if at < before), 0) for user, seqs in accepted.items()}
        signed_in = [listener for listener in self._all if not listener.socket.signed_out]
        return all(one.socket.connected and one.last_seq >= due.get(one.socket.user_id, 0) for one in signed_in)

    def closings(self, instance: str, since: float) -> list[float]:
        """When sockets of the instance were lost."""
        outages = [outage for socket in self.sockets for outage in socket.outages]
        return [outage.lost_at for outage in outages if outage.lost_at >= since and is_named(outage.instance, [instance])]

    def count(self, instance: str) -> int:
        """Of its sockets, now."""
        return sum(listener.socket.connected and is_named(listener.instance, [instance]) for listener in self._all)


def _each(listeners: Sequence[Listener], act: Callable[[Listener], None], seconds: float) -> None:
    pool = Pool(AT_ONCE)
    for listener in listeners:
        pool.spawn(act, listener)
    pool.join(timeout=seconds)


def _http_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxies, no look at ~/.netrc with each request
    session.verify = os.environ.get("SSL_CERT_FILE", True)  # the name that Python's own TLS knows, too
    return session
