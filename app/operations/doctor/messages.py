"""Socket.IO as browsers use it: whether sockets open at each address, and hear what this process says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

import requests
import socketio

from app.operations.doctor.findings import Finding, fail, in_words, ok, warn
from app.operations.doctor.proxy import FOREIGN_ORIGIN
from app.operations.doctor.site import CONNECT_SECONDS, Site, Unreachable, session
from app.operations.doctor.visitor import Login

OPENING_SECONDS = 5.0
HEARING_SECONDS = 6.0  # whoever gets no push looks for itself every 2 s, an embedded instance too
PUSHED_SECONDS = 1.5  # what takes longer was not pushed, in a fleet
POLLING_REPEATS = 3  # a balancer that routes by chance may be right by chance
POLLING = "polling"
HANDSHAKE = "/socket.io/?EIO=4&transport="
POLL_SECONDS = 0.02

Send = Callable[[], int]  # notifies the visitor, and returns the number


class Socket:
    """The official client. A background thread of it hears; `outcome` is `ready`, `refused: …` or what else ended it."""

    def __init__(self, login: Login, transport: str, origin: str | None = None) -> None:
        self.login = login
        self.transport = transport
        self.instance_id = ""
        self.heard: dict[int, float] = {}
        self._outcome = ""
        self._http: requests.Session = session()
        self._client = socketio.Client(
            reconnection=False,
            handle_sigint=False,
            http_session=self._http,
            request_timeout=CONNECT_SECONDS,
            # Without an Origin of its own, and without the proxies of the environment.
            websocket_extra_options={"suppress_origin": True, "http_no_proxy": ["*"]},
        )
        self._headers = {"Cookie": login.cookie} | ({"Origin": origin} if origin else {})
        self._client.on("ready", self._ready)
        self._client.on("connect_error", self._refused)
        self._client.on("notification", self._notified)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.eio.disconnect(abort=True)
        self._http.close()

    @property
    def place(self) -> tuple[str, str]:
        return self.login.site.url, self.instance_id

    def open(self) -> str:
        """The outcome, within OPENING_SECONDS and little more."""
        try:
            self._client.connect(self.login.site.url, headers=self._headers, transports=[self.transport], wait=False)
        except socketio.exceptions.ConnectionError as error:
            return in_words(error)
        deadline = time.monotonic() + OPENING_SECONDS
        while not self._outcome and time.monotonic() < deadline and self._client.eio.state == "connected":
            time.sleep(POLL_SECONDS)
        return self._outcome or ("nothing came" if self._client.eio.state == "connected" else "it was cut off")

    def _ready(self, data: dict[str, Any]) -> None:
        self.instance_id = data["instance_id"]
        self._outcome = "ready"

    def _refused(self, data: Any = None) -> None:
        words = data.get("message") if isinstance(data, dict) else data
        self._outcome = f"refused: {words}"

    def _notified(self, item: dict[str, Any]) -> None:
        self.heard.setdefault(item["seq"], time.monotonic())


def examine(logins: Sequence[Login], transports: Sequence[str], send: Send, *, pushed: bool) -> Iterator[Finding]:
    """Opens sockets at each address by each transport that is offered there; then a message has to arrive at all of them.

    `pushed`: instances are told of messages at once, and do not have to look for them.
    """
    with ExitStack() as stack:
        trials = [
            (login, transport, [stack.enter_context(Socket(login, transport)) for _ in range(_repeats(login.site, transport))])
            for login in logins
            for transport in _offered(login, transports)
        ]
        outcomes = _open_all([one for _, _, sockets in trials for one in sockets])
        for login, transport, sockets in trials:
            yield _opened(login, transport, [outcomes[one] for one in sockets])
        good = [sockets for _, _, sockets in trials if all(outcomes[one] == "ready" for one in sockets)]
        if good:
            yield from _hear([one for sockets in good for one in sockets], send, pushed)
    for login in logins:
        tried = [transport for of, transport, _ in trials if of is login]
        if POLLING not in tried:
            yield ok(f"{login.site.url}: long polling is not offered")
        if tried:
            yield from _origins(login, tried[-1])


def _repeats(site: Site, transport: str) -> int:
    return POLLING_REPEATS if transport == POLLING and site.is_proxied else 1


def _offered(login: Login, transports: Sequence[str]) -> list[str]:
    return [transport for transport in transports if transport != POLLING or _handshake(login, POLLING)[0] != 400]


def _open_all(sockets: Sequence[Socket]) -> dict[Socket, str]:
    """At the same time, so that a silent address costs its time only once."""
    outcomes: dict[Socket, str] = dict.fromkeys(sockets, "nothing came")

    def open_one(one: Socket) -> None:
        outcomes[one] = one.open()

    threads = [threading.Thread(target=open_one, args=(one,), daemon=True) for one in sockets]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CONNECT_SECONDS + OPENING_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(outcomes)


def _opened(login: Login, transport: str, outcomes: Sequence[str]) -> Finding:
    site = login.site
    name = "WebSocket" if transport == "websocket" else "long polling"
    failures = [outcome for outcome in outcomes if outcome != "ready"]
    if not failures:
        return ok(f"{site.url}: {name} connects")
    text = f"{site.url}: {name} does not connect: {failures[0]}"
    if failures[0] == "refused: unauthorized":
        return fail(text, "The session is not known to the instance that took it: see what was found about sessions")
    status, words = _handshake(login, transport)
    if status == 503:
        return fail(f"{text}; the handshake is answered 503: {words}", "See 'keeps reconnecting' in docs/troubleshooting.md")
    if transport == "websocket":
        text += f"; the handshake is answered {status} instead of 101" if status not in (0, 101) else ""
        return fail(
            text,
            "The proxy has to pass the upgrade on (nginx: proxy_http_version 1.1; Upgrade $http_upgrade; Connection upgrade)"
            if site.is_proxied
            else "Look for the handshake in its log",
        )
    return fail(
        f"{text} ({len(failures)} of {len(outcomes)} times)",
        "Route /socket.io/ by the id in sid (deploy/nginx does), or set SOCKET_TRANSPORTS=websocket",
    )


def _handshake(login: Login, transport: str) -> tuple[int, str]:
    """How it is answered: the status, 0 for none, and the words, with which an instance says why it can't take it now."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    try:
        answer = login.site.get(HANDSHAKE + transport, Cookie=login.cookie, **(upgrade if transport == "websocket" else {}))
    except Unreachable as error:
        return 0, str(error)
    return answer.status_code, answer.text.strip()[:200]


def _hear(sockets: Sequence[Socket], send: Send, pushed: bool) -> Iterator[Finding]:
    delays = _delays(sockets, send)
    if pushed and len(delays) == len(sockets):
        # Whoever looks for itself has just done so, and would take long now.
        delays = _delays(sockets, send)
    for url, name in sorted({one.place for one in sockets if one not in delays}):
        yield fail(
            f"messages: a notification from this process never arrived at {url} ({name})",
            "Its DATABASE_URL differs from the one here, or a proxy holds back what it sends (nginx: proxy_buffering off)",
        )
    late = {one.place: delay for one, delay in delays.items() if pushed and delay > PUSHED_SECONDS}
    for (url, name), delay in sorted(late.items()):
        yield warn(
            f"messages: a notification from this process took {delay:.1f} s to {url} ({name})",
            "It was not pushed but found by looking: REDIS_URL or SESSION_SECRET of the instance differ from those here",
        )
    if len(delays) == len(sockets) and not late:
        names = ", ".join(sorted({one.instance_id for one in sockets}))
        slowest = max(delays.values()) * 1000
        which = "the one socket" if len(sockets) == 1 else f"all {len(sockets)} sockets"
        yield ok(f"messages: a notification from this process arrived at {which} ({names}) within {slowest:.0f} ms")


def _delays(sockets: Sequence[Socket], send: Send) -> dict[Socket, float]:
    """Seconds from sending to hearing; without those who heard nothing."""
    sent_at = time.monotonic()
    seq = send()
    while any(seq not in one.heard for one in sockets) and time.monotonic() - sent_at < HEARING_SECONDS:
        time.sleep(POLL_SECONDS)
    return {one: one.heard[seq] - sent_at for one in sockets if seq in one.heard}


def _origins(login: Login, transport: str) -> Iterator[Finding]:
    site = login.site
    with Socket(login, transport, origin=site.origin) as own, Socket(login, transport, origin=FOREIGN_ORIGIN) as foreign:
        outcomes = _open_all([own, foreign])
    if outcomes[own] == "refused: unauthorized":
        yield fail(
            f"{site.url}: a socket of its own pages is refused (Origin {site.origin})",
            "The proxy has to pass Host with its port, and X-Forwarded-Proto, for /socket.io/ too",
        )
    elif outcomes[own] == "ready":
        yield ok(f"{site.url}: a socket of its own pages is accepted")
    if outcomes[foreign] == "ready":
        yield fail(
            f"{site.url}: a socket of another site's pages is accepted", "The proxy must leave Origin alone for /socket.io/"
        )
    elif outcomes[foreign] == "refused: unauthorized":
        yield ok(f"{site.url}: a socket of another site's pages is refused")
