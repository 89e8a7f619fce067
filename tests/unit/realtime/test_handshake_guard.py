from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.errors import Unavailable
from app.realtime.connections import IDENTITY, OPENED_AT, Identity
from app.realtime.handshake_guard import HandshakeGuard, Handshakes
from app.realtime.transport import MAX_PACKETS_PER_POST
from app.realtime.websocket import MAX_MESSAGE_BYTES

ADA = Identity(1, 1, "a")
UPGRADE = {
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "keep-alive, Upgrade",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
}


class World:
    def __init__(self) -> None:
        self.identity: Identity | Exception | None = ADA
        self.server = SimpleNamespace(environ={}, eio=SimpleNamespace(sockets={}))
        self.is_leaving = False
        self.gate = HandshakeGuard(
            self._application,
            self._application,
            self.server,
            lambda: self.is_leaving,
            self._identify,
            allowed_origins=["https://ours.example"],
            max_sockets=20,
            max_sockets_per_user=3,
            headers=[("X-Every", "answer")],
        )

    def _identify(self, _: Any) -> Identity | None:
        if isinstance(self.identity, Exception):
            raise self.identity
        return self.identity

    def _application(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        if IDENTITY in environ:
            self.server.environ[str(len(self.server.environ))] = environ
        start_response("200 OK", [])
        return [b""]

    def ask(
        self, query: str = "", body: bytes = b"", method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[str, dict[str, str]]:
        answers: list[tuple[str, dict[str, str]]] = []
        environ = {"PATH_INFO": "/socket.io/", "QUERY_STRING": query, "REQUEST_METHOD": method, "wsgi.input": BytesIO(body)}
        environ |= {"CONTENT_LENGTH": str(len(body)), **(headers or {})}

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            answers.append((status[:3], dict(headers)))

        list(self.gate(environ, start))
        return answers[0]


@pytest.fixture
def world() -> World:
    return World()


def test_users_and_strangers_have_so_many_places(world: World) -> None:
    assert [world.ask()[0] for _ in range(4)] == ["200"] * 3 + ["503"]
    world.identity = None
    assert [world.ask()[0] for _ in range(3)] == ["200"] * 2 + ["503"]
    del world.server.environ["3"]
    assert world.ask()[0] == "200"


def test_one_request_at_a_time_waits_for_a_connection(world: World) -> None:
    statuses: list[str] = []

    def ask_again(environ: Any, start_response: Any) -> Iterable[bytes]:
        """While the first request waits, there come others."""
        world.gate._sockets = world._application
        statuses.append(world.ask("transport=polling&sid=1")[0])
        statuses.append(world.ask("transport=polling&sid=2")[0])
        statuses.append(world.ask("transport=websocket&sid=1", headers=UPGRADE)[0])
        return world._application(environ, start_response)

    world.gate._sockets = ask_again
    statuses.append(world.ask("transport=polling&sid=1")[0])
    assert statuses == ["400", "200", "200", "200"]
    assert world.ask("transport=polling&sid=1")[0] == "200"


def test_an_instance_has_so_many_places(world: World) -> None:
    statuses = []
    for number in range(22):
        world.identity = Identity(number, 1, "a")
        statuses.append(world.ask()[0])
    assert statuses == ["200"] * 20 + ["503"] * 2


def test_a_connection_that_is_closed_takes_no_place(world: World) -> None:
    """Engine.IO sweeps such from its table now and then."""
    world.server.eio.sockets = {str(number): SimpleNamespace(closed=True) for number in range(100)}
    assert world.ask()[0] == "200"


def test_what_cannot_be_told_is_asked_again_later(world: World) -> None:
    world.identity = Unavailable("Redis does not answer.")
    status, headers = world.ask()
    assert (status, headers["Retry-After"], headers["X-Every"]) == ("503", "5", "answer")


def test_a_stopping_instance_takes_nobody(world: World) -> None:
    world.is_leaving = True
    assert world.ask()[0] == "503"
    assert world.ask("sid=x")[0] == "200"


def test_who_was_being_identified_when_the_instance_began_to_stop_is_not_taken(world: World) -> None:
    identify = world._identify

    def slowly(environ: Any) -> Identity | None:
        world.is_leaving = True
        return identify(environ)

    world.gate._identify = slowly
    assert world.ask()[0] == "503"
    assert world.server.environ == {}


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
def test_bodies(world: World, body: bytes, status: str) -> None:
    assert world.ask("sid=x", body, "POST")[0] == status


@pytest.mark.parametrize("length", ["-1", "x", "1.5"])
def test_odd_lengths_are_refused(world: World, length: str) -> None:
    assert world.ask("sid=x", b"3", "POST", {"CONTENT_LENGTH": length})[0] == "413"


@pytest.mark.parametrize("name", UPGRADE)
def test_a_broken_handshake_of_a_websocket_is_refused(world: World, name: str) -> None:
    assert world.ask(headers=UPGRADE)[0] == "200"
    broken = {**UPGRADE, name: "7"}
    assert world.ask(headers=broken)[0] == ("200" if name == "HTTP_UPGRADE" else "400")


def test_a_connection_has_one_upgrade_at_a_time(world: World) -> None:
    world.server.eio.sockets = {"x": SimpleNamespace(upgrading=True), "y": SimpleNamespace(upgrading=False)}
    assert [world.ask(f"sid={sid}", headers=UPGRADE)[0] for sid in ("x", "y", "z")] == ["400", "200", "200"]


def test_only_our_other_origins_are_told_that_they_may_read(world: World) -> None:
    ours = world.ask(headers={"HTTP_ORIGIN": "https://ours.example"})[1]
    assert (ours["Access-Control-Allow-Origin"], ours["Vary"]) == ("https://ours.example", "Origin")
    assert "Access-Control-Allow-Origin" not in world.ask(headers={"HTTP_ORIGIN": "https://theirs.example"})[1]


def test_no_more_of_a_handshake_is_kept_than_will_be_asked_for(world: World) -> None:
    world.ask(headers={"HTTP_COOKIE": "session=secret"})
    (kept,) = world.server.environ.values()
    assert set(kept) == {IDENTITY, OPENED_AT}
    assert kept[IDENTITY] == ADA


def test_connections_are_counted_and_not_walked() -> None:
    handshakes = Handshakes()
    for number in range(6):
        handshakes[str(number)] = {IDENTITY: None if number % 3 == 0 else ADA, OPENED_AT: 0.0}
    assert (handshakes.count(ADA), handshakes.count(Identity(1, 2, "b")), handshakes.count(None)) == (4, 4, 2)
    for number in range(6):
        del handshakes[str(number)]
    assert (handshakes.count(ADA), handshakes.count(None), dict(handshakes._counts)) == (0, 0, {})
