from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.errors import Unavailable
from app.realtime.connections import IDENTITY, OPENED_AT, OPENED_BY, Identity
from app.realtime.handshake_guard import HandshakeGuard, HandshakeTable
from app.realtime.transport import MAX_PACKETS_PER_POST
from app.realtime.websocket import MAX_MESSAGE_BYTES

ADA = Identity(1, 1, "a")
UPGRADE = {
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "keep-alive, Upgrade",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
}


class GuardedServer:
    """A guard in front of an application that records the table it accepts."""

    def __init__(self) -> None:
        self.identity: Identity | Exception | None = ADA
        self.environ: dict[str, Any] = {}  # of the latest request that was passed on
        self.server = SimpleNamespace(environ={}, eio=SimpleNamespace(sockets={}))
        self.is_draining = False
        self.drained = 0
        self.accepts_shed_sockets = True
        self.guard = HandshakeGuard(
            self._application,
            self._application,
            self.server,
            lambda: self.is_draining,
            self._identify,
            lambda environ: tuple(environ.get("HTTP_COOKIE", "")),
            allowed_origins=["https://allowed.example"],
            max_sockets=20,
            max_sockets_per_user=3,
            count_drained=lambda _: self.drained,
            accepts_shed_sockets=lambda: self.accepts_shed_sockets,
            headers=[("X-Test", "value")],
        )

    def open(self, engine_sid: str) -> None:
        self.guard._handshakes[engine_sid] = {IDENTITY: ADA, OPENED_AT: 0.0, OPENED_BY: ()}

    def _identify(self, _: Any) -> Identity | None:
        if isinstance(self.identity, Exception):
            raise self.identity
        return self.identity

    def _application(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.environ = environ
        if IDENTITY in environ:
            self.server.environ[str(len(self.server.environ))] = environ
        start_response("200 OK", [])
        return [b""]

    def request(
        self, query: str = "", body: bytes = b"", method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[str, dict[str, str]]:
        responses: list[tuple[str, dict[str, str]]] = []
        environ = {"PATH_INFO": "/socket.io/", "QUERY_STRING": query, "REQUEST_METHOD": method, "wsgi.input": BytesIO(body)}
        environ |= {"SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_LENGTH": str(len(body)), **(headers or {})}

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            responses.append((status[:3], dict(headers)))

        list(self.guard(environ, start))
        return responses[0]


@pytest.fixture
def guarded() -> GuardedServer:
    return GuardedServer()


def test_sockets_per_user_and_anonymous_sockets_are_limited(guarded: GuardedServer) -> None:
    assert [guarded.request()[0] for _ in range(4)] == ["200"] * 3 + ["503"]
    guarded.identity = None
    assert [guarded.request()[0] for _ in range(3)] == ["200"] * 2 + ["503"]


@pytest.mark.parametrize(("drained", "accepted"), [(1, 4), (3, 6), (9, 6)])
def test_replacements_of_drained_sockets_do_not_count_up_to_the_limit_again(
    guarded: GuardedServer, drained: int, accepted: int
) -> None:
    guarded.drained = drained
    assert [guarded.request()[0] for _ in range(accepted + 1)] == ["200"] * accepted + ["503"]
    guarded.drained = 0
    assert guarded.request()[0] == "503"


def test_client_that_another_instance_shed_is_accepted_by_instances_with_fewer_sockets(guarded: GuardedServer) -> None:
    assert guarded.request("replaces=rebalance")[0] == "200"
    guarded.accepts_shed_sockets = False
    assert [guarded.request(query)[0] for query in ("replaces=rebalance", "replaces=stop", "")] == ["503", "200", "200"]


def test_place_is_taken_until_the_websocket_of_the_connection_has_ended(guarded: GuardedServer) -> None:
    for _ in range(3):
        guarded.request()
    del guarded.server.environ["1"]  # the connection has ended
    assert guarded.request()[0] == "503"
    for _ in range(2):
        guarded.server.eio.release_place("1")
    assert [guarded.request()[0] for _ in range(2)] == ["200", "503"]


def test_second_concurrent_poll_of_a_connection_is_refused(guarded: GuardedServer) -> None:
    statuses: list[str] = []

    def poll_again(environ: Any, start_response: Any) -> Iterable[bytes]:
        """Send other requests while the first poll waits."""
        guarded.guard._socketio_app = guarded._application
        statuses.append(guarded.request("transport=polling&sid=1")[0])
        statuses.append(guarded.request("transport=polling&sid=2")[0])
        statuses.append(guarded.request("transport=websocket&sid=1", headers=UPGRADE)[0])
        return guarded._application(environ, start_response)

    guarded.open("1")
    guarded.open("2")
    guarded.guard._socketio_app = poll_again
    statuses.append(guarded.request("transport=polling&sid=1")[0])
    assert statuses == ["400", "200", "200", "200"]
    assert guarded.request("transport=polling&sid=1")[0] == "200"


def test_sockets_per_instance_are_limited(guarded: GuardedServer) -> None:
    statuses = []
    for number in range(22):
        guarded.identity = Identity(number, 1, "a")
        statuses.append(guarded.request()[0])
    assert statuses == ["200"] * 20 + ["503"] * 2


def test_closed_connection_does_not_count_towards_the_limit(guarded: GuardedServer) -> None:
    """Engine.IO removes closed sockets from its table only from time to time."""
    guarded.server.eio.sockets = {str(number): SimpleNamespace(closed=True) for number in range(100)}
    assert guarded.request()[0] == "200"


def test_unavailable_store_is_answered_with_503_and_retry_after(guarded: GuardedServer) -> None:
    guarded.identity = Unavailable("Redis does not answer.")
    status, headers = guarded.request()
    assert (status, headers["Retry-After"], headers["X-Test"]) == ("503", "5", "value")


def test_draining_instance_refuses_handshakes_and_serves_open_sockets(guarded: GuardedServer) -> None:
    guarded.open("x")
    guarded.is_draining = True
    assert guarded.request()[0] == "503"
    assert guarded.request("sid=x")[0] == "200"


def test_handshake_is_refused_when_the_drain_begins_during_its_identification(guarded: GuardedServer) -> None:
    identify = guarded._identify

    def drain_meanwhile(environ: Any) -> Identity | None:
        guarded.is_draining = True
        return identify(environ)

    guarded.guard._identify = drain_meanwhile
    assert guarded.request()[0] == "503"
    assert guarded.server.environ == {}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"3", "200"),
        (b"3\x1e40", "200"),
        (b"3\x1e" * (MAX_PACKETS_PER_POST - 1) + b"3", "200"),
        (b"3\x1e" * MAX_PACKETS_PER_POST + b"3", "413"),
        (b"4" + b"x" * MAX_MESSAGE_BYTES, "413"),
        (b"nonsense", "400"),
    ],
)
def test_invalid_and_too_large_payloads_are_refused(guarded: GuardedServer, body: bytes, status: str) -> None:
    guarded.open("x")
    assert guarded.request("sid=x", body, "POST")[0] == status


def test_chunked_post_is_passed_on_with_its_length(guarded: GuardedServer) -> None:
    guarded.open("x")
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    guarded.open("x")
    assert guarded.request("sid=x", b"4abc", "POST", chunked)[0] == "200"
    assert (guarded.environ["CONTENT_LENGTH"], guarded.environ["wsgi.input"].read()) == ("4", b"4abc")
    assert guarded.request("sid=x", b"4" + bytes(MAX_MESSAGE_BYTES), "POST", chunked)[0] == "413"


def test_post_to_a_connection_that_ends_while_the_body_is_received_is_refused(guarded: GuardedServer) -> None:
    class Body(BytesIO):
        def read(self, *arguments: Any) -> bytes:
            del guarded.server.environ["x"]
            return super().read(*arguments)

    guarded.server.environ = guarded.guard._handshakes
    guarded.open("x")
    assert guarded.request("sid=x", b"3", "POST", {"wsgi.input": Body(b"3")})[0] == "400"  # type: ignore[dict-item]


def test_incomplete_post_is_refused(guarded: GuardedServer) -> None:
    guarded.open("x")
    assert guarded.request("sid=x", b"4abc", "POST", {"CONTENT_LENGTH": "5"})[0] == "400"


@pytest.mark.parametrize("length", ["-1", "x", "1.5"])
def test_invalid_content_length_is_refused(guarded: GuardedServer, length: str) -> None:
    guarded.open("x")
    assert guarded.request("sid=x", b"3", "POST", {"CONTENT_LENGTH": length})[0] == "413"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("CONNECTION", "close"),
        ("SEC_WEBSOCKET_VERSION", ""),
        *(
            ("SEC_WEBSOCKET_KEY", key)
            for key in (
                "", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ==,dGhlIHNhbXBsZSBub25jZQ==",
                "!!!!!!!!!!!!!!!!!!!!!!==", "dGhlIHNhbXBsZSBub25jZTE=", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25j\xfc\xfc==",
                "dGhlIHNhbXBsZSBub2-_ZQ==", "========================",
            )
        ),
    ],
)  # fmt: skip
def test_invalid_websocket_handshake_is_refused(guarded: GuardedServer, header: str, value: str) -> None:
    assert guarded.request(headers=UPGRADE)[0] == "200"
    assert guarded.request(headers={**UPGRADE, f"HTTP_{header}": value})[0] == "400"


@pytest.mark.parametrize("version", ["8", "0", "14", "013", "13, 13", "x"])
def test_other_websocket_versions_are_answered_with_the_supported_one(guarded: GuardedServer, version: str) -> None:
    status, headers = guarded.request(headers={**UPGRADE, "HTTP_SEC_WEBSOCKET_VERSION": version})
    assert (status, headers["Sec-WebSocket-Version"], headers["Upgrade"]) == ("426", "13", "websocket")


@pytest.mark.parametrize(
    ("method", "changes", "passed_on"),
    [
        ("GET", {}, "websocket"),
        ("GET", {"HTTP_UPGRADE": "WebSocket"}, "websocket"),
        ("GET", {"HTTP_UPGRADE": "h2c, websocket"}, "websocket"),
        ("GET", {"HTTP_UPGRADE": "h2c"}, None),
        ("GET", {"SERVER_PROTOCOL": "HTTP/1.0"}, None),
        ("POST", {}, None),
    ],
)
def test_only_http_1_1_gets_become_websockets(
    guarded: GuardedServer, method: str, changes: dict[str, str], passed_on: str | None
) -> None:
    guarded.open("x")
    assert guarded.request("sid=x", b"3", method, {**UPGRADE, **changes})[0] == "200"
    assert guarded.environ.get("HTTP_UPGRADE") == passed_on


def test_second_concurrent_upgrade_of_a_connection_is_refused(guarded: GuardedServer) -> None:
    guarded.server.eio.sockets = {"x": SimpleNamespace(websocket=object()), "y": SimpleNamespace(websocket=None)}
    guarded.open("x")
    guarded.open("y")
    assert [guarded.request(f"sid={sid}", headers=UPGRADE)[0] for sid in ("x", "y")] == ["400", "200"]


@pytest.mark.parametrize("opened_by", ["a", None])
@pytest.mark.parametrize("used_by", ["a", "b", None])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("upgrade", [{}, UPGRADE])
def test_only_the_session_that_opened_a_connection_uses_it(
    guarded: GuardedServer, opened_by: str | None, used_by: str | None, method: str, upgrade: dict[str, str]
) -> None:
    guarded.request(headers={"HTTP_COOKIE": opened_by} if opened_by else {})
    cookie = {"HTTP_COOKIE": used_by} if used_by else {}
    response = guarded.request("sid=0", b"3", method, {**upgrade, **cookie})
    assert response[0] == ("200" if used_by == opened_by else "400")
    if used_by != opened_by:
        assert response == guarded.request("sid=9", b"3", method, {**upgrade, **cookie})


def test_preflight_request_needs_no_session(guarded: GuardedServer) -> None:
    guarded.request(headers={"HTTP_COOKIE": "a"})
    assert guarded.request("sid=0", method="OPTIONS")[0] == "200"


def test_only_allowed_origins_get_cors_headers(guarded: GuardedServer) -> None:
    allowed = guarded.request(headers={"HTTP_ORIGIN": "https://allowed.example"})[1]
    assert (allowed["Access-Control-Allow-Origin"], allowed["Vary"]) == ("https://allowed.example", "Origin")
    assert "Access-Control-Allow-Origin" not in guarded.request(headers={"HTTP_ORIGIN": "https://other.example"})[1]


def test_handshake_table_keeps_only_identity_and_time(guarded: GuardedServer) -> None:
    guarded.request(headers={"HTTP_COOKIE": "session=secret"})
    (handshake,) = guarded.server.environ.values()
    assert set(handshake) == {IDENTITY, OPENED_AT, OPENED_BY}
    assert handshake[IDENTITY] == ADA


def test_handshake_table_counts_connections_of_each_user() -> None:
    table = HandshakeTable()
    for number in range(6):
        table[str(number)] = {IDENTITY: None if number % 3 == 0 else ADA, OPENED_AT: 0.0, OPENED_BY: None}
    assert (table.count(ADA), table.count(Identity(1, 2, "b")), table.count(None)) == (4, 4, 2)
    for number in range(6):
        table.release_place(str(number))
    assert (table.places, table.count(ADA), table.count(None), dict(table._counts)) == (0, 0, 0, {})
