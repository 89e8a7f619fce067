"""Socket.IO as browsers use it: whether sockets connect at each address and receive what this process publishes."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

import requests
import socketio

from app.operations.doctor.client import SignedInSession
from app.operations.doctor.findings import Finding, describe_error, fail, ok, warn
from app.operations.doctor.proxy import FOREIGN_ORIGIN
from app.operations.doctor.site import CONNECT_SECONDS, Site, Unreachable, http_session

CONNECTING_SECONDS = 5.0
RECEIVING_SECONDS = 6.0  # an instance that receives no push polls every 2 s, also in embedded mode
PUSH_SECONDS = 1.5  # in a fleet, a message that takes longer was polled, not pushed
POLLING_REPEATS = 3  # a balancer without stickiness may choose the right instance by chance
POLLING = "polling"
HANDSHAKE = "/socket.io/?EIO=4&transport="
POLL_SECONDS = 0.02

Send = Callable[[], int]  # sends a notification to the test client and returns its number


class ClientSocket:
    """A connection of the official client, which receives in a thread of its own."""

    def __init__(self, session: SignedInSession, transport: str, origin: str | None = None) -> None:
        self.session = session
        self.transport = transport
        self.instance_id = ""
        self.received_at: dict[int, float] = {}  # by number, monotonic
        self._outcome = ""
        self._http: requests.Session = http_session()
        self._http.headers["Cookie"] = session.cookie  # the client sends `headers` with its first request only
        self._client = socketio.Client(
            reconnection=False,
            handle_sigint=False,
            http_session=self._http,
            request_timeout=CONNECT_SECONDS,
            # Do not add an Origin header or use the proxies of the environment.
            websocket_extra_options={"suppress_origin": True, "http_no_proxy": ["*"]},
        )
        self._headers = {"Cookie": session.cookie} | ({"Origin": origin} if origin else {})
        self._client.on("ready", self._on_ready)
        self._client.on("connect_error", self._on_connect_error)
        self._client.on("notification", self._on_notification)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.eio.disconnect(abort=True)
        self._http.close()

    @property
    def place(self) -> tuple[str, str]:
        return self.session.site.url, self.instance_id

    def open(self) -> str:
        """Connect and return the outcome: `ready`, `refused: …` or another reason."""
        try:
            self._client.connect(self.session.site.url, headers=self._headers, transports=[self.transport], wait=False)
        except socketio.exceptions.ConnectionError as error:
            return describe_error(error)
        deadline = time.monotonic() + CONNECTING_SECONDS
        while not self._outcome and time.monotonic() < deadline and self._client.eio.state == "connected":
            time.sleep(POLL_SECONDS)
        return self._outcome or (
            "no ready event arrived" if self._client.eio.state == "connected" else "the connection was closed"
        )

    def _on_ready(self, data: dict[str, Any]) -> None:
        self.instance_id = data["instance_id"]
        self._outcome = "ready"

    def _on_connect_error(self, data: Any = None) -> None:
        message = data.get("message") if isinstance(data, dict) else data
        self._outcome = f"refused: {message}"

    def _on_notification(self, item: dict[str, Any]) -> None:
        self.received_at.setdefault(item["seq"], time.monotonic())


def examine(sessions: Sequence[SignedInSession], transports: Sequence[str], send: Send, *, pushed: bool) -> Iterator[Finding]:
    """Connect to each address by each offered transport, then check that a notification arrives at all sockets.

    `pushed` is False in embedded mode, where the instance polls for what other processes send.
    """
    with ExitStack() as stack:
        trials = [
            (
                session,
                transport,
                [stack.enter_context(ClientSocket(session, transport)) for _ in range(_repeats(session.site, transport))],
            )
            for session in sessions
            for transport in _offered(session, transports)
        ]
        outcomes = _open_all([one for _, _, sockets in trials for one in sockets])
        for session, transport, sockets in trials:
            yield _opened(session, transport, [outcomes[one] for one in sockets])
        good = [sockets for _, _, sockets in trials if all(outcomes[one] == "ready" for one in sockets)]
        if good:
            yield from _receive([one for sockets in good for one in sockets], send, pushed)
    for session in sessions:
        tried = [transport for tested, transport, _ in trials if tested is session]
        if POLLING not in tried:
            yield ok(f"{session.site.url}: long polling is not offered")
        if tried:
            yield from _origins(session, tried[-1])


def _repeats(site: Site, transport: str) -> int:
    return POLLING_REPEATS if transport == POLLING and site.is_proxied else 1


def _offered(session: SignedInSession, transports: Sequence[str]) -> list[str]:
    return [transport for transport in transports if transport != POLLING or _handshake(session, POLLING)[0] != 400]


def _open_all(sockets: Sequence[ClientSocket]) -> dict[ClientSocket, str]:
    """Open the sockets in parallel, so that several silent addresses cost only one timeout."""
    outcomes: dict[ClientSocket, str] = dict.fromkeys(sockets, "no ready event arrived")

    def open_one(one: ClientSocket) -> None:
        outcomes[one] = one.open()

    threads = [threading.Thread(target=open_one, args=(one,), daemon=True) for one in sockets]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CONNECT_SECONDS + CONNECTING_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(outcomes)


def _opened(session: SignedInSession, transport: str, outcomes: Sequence[str]) -> Finding:
    site = session.site
    name = "WebSocket" if transport == "websocket" else "long polling"
    failures = [outcome for outcome in outcomes if outcome != "ready"]
    if not failures:
        return ok(f"{site.url}: {name} connects")
    text = f"{site.url}: {name} does not connect: {failures[0]}"
    if failures[0] == "refused: unauthorized":
        return fail(text, "The instance that answered does not know the session: see the findings about sessions")
    status, reason = _handshake(session, transport)
    if status == 503:
        return fail(
            f"{text}; the handshake is answered with 503: {reason}", "See 'keeps reconnecting' in docs/troubleshooting.md"
        )
    if transport == "websocket":
        text += f"; the handshake is answered with {status} instead of 101" if status not in (0, 101) else ""
        return fail(
            text,
            "Let the proxy pass on the upgrade (nginx: proxy_http_version 1.1; Upgrade $http_upgrade; Connection upgrade)"
            if site.is_proxied
            else "Find the handshake in its log",
        )
    return fail(
        f"{text} ({len(failures)} of {len(outcomes)} times)",
        "Route /socket.io/ by the parameter sid, as deploy/nginx does, or set SOCKET_TRANSPORTS=websocket",
    )


def _handshake(session: SignedInSession, transport: str) -> tuple[int, str]:
    """Return the status of a handshake (0: no response) and its text, which says why an instance can't accept it now."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    try:
        response = session.site.get(HANDSHAKE + transport, Cookie=session.cookie, **(upgrade if transport == "websocket" else {}))
    except Unreachable as error:
        return 0, str(error)
    return response.status_code, response.text.strip()[:200]


def _receive(sockets: Sequence[ClientSocket], send: Send, pushed: bool) -> Iterator[Finding]:
    delays = _delays(sockets, send)
    if pushed and len(delays) == len(sockets):
        # The first may have arrived by a poll that was just due. The next poll is 2 s later, so the second needs a push.
        delays = _delays(sockets, send)
    for url, name in sorted({one.place for one in sockets if one not in delays}):
        yield fail(
            f"messages: a notification from this process never arrived at {url} ({name})",
            "Its DATABASE_URL differs from the one here, or a proxy buffers its responses (nginx: proxy_buffering off)",
        )
    late = {one.place: delay for one, delay in delays.items() if pushed and delay > PUSH_SECONDS}
    for (url, name), delay in sorted(late.items()):
        yield warn(
            f"messages: a notification from this process took {delay:.1f} s to {url} ({name})",
            "It was polled, not pushed: REDIS_URL or SESSION_SECRET of the instance differs from the one here",
        )
    if len(delays) == len(sockets) and not late:
        names = ", ".join(sorted({one.instance_id for one in sockets}))
        slowest = max(delays.values()) * 1000
        which = "the one socket" if len(sockets) == 1 else f"all {len(sockets)} sockets"
        yield ok(f"messages: a notification from this process arrived at {which} ({names}) within {slowest:.0f} ms")


def _delays(sockets: Sequence[ClientSocket], send: Send) -> dict[ClientSocket, float]:
    """Return the seconds from sending to receiving, for each socket that received the notification."""
    sent_at = time.monotonic()
    seq = send()
    while any(seq not in one.received_at for one in sockets) and time.monotonic() - sent_at < RECEIVING_SECONDS:
        time.sleep(POLL_SECONDS)
    return {one: one.received_at[seq] - sent_at for one in sockets if seq in one.received_at}


def _origins(session: SignedInSession, transport: str) -> Iterator[Finding]:
    site = session.site
    with (
        ClientSocket(session, transport, origin=site.origin) as own,
        ClientSocket(session, transport, origin=FOREIGN_ORIGIN) as foreign,
    ):
        outcomes = _open_all([own, foreign])
    if outcomes[own] == "refused: unauthorized":
        yield fail(
            f"{site.url}: a socket of its own pages is rejected (Origin {site.origin})",
            "Let the proxy pass on Host with its port, and X-Forwarded-Proto, for /socket.io/ too",
        )
    elif outcomes[own] == "ready":
        yield ok(f"{site.url}: a socket of its own pages is accepted")
    if outcomes[foreign] == "ready":
        yield fail(
            f"{site.url}: a socket of another site's pages is accepted", "The proxy must not change Origin for /socket.io/"
        )
    elif outcomes[foreign] == "refused: unauthorized":
        yield ok(f"{site.url}: a socket of another site's pages is rejected")
