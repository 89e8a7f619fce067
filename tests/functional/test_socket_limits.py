"""Hostile socket clients: sockets, frames and messages are limited, and other clients are not delayed."""

from __future__ import annotations

import itertools
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import httpx
import psycopg2
import pytest

from harness import web
from harness.fleet import Fleet
from harness.machine import Machine
from harness.scale import count
from harness.servers import Instance, PostgresServer, wait_until
from harness.sockets import BINARY, CONTINUATION, HANDSHAKE, PING, PONG, TEXT, Listener, WebSocket, memory, probed
from harness.users import User

MEGABYTE = 2**20
PLACES, PLACES_OF_USER, PLACES_OF_NOBODY = 20, 4, 2


@pytest.fixture(scope="module")
def instance(postgres_server: PostgresServer) -> Iterator[Instance]:
    limits = {"MAX_SOCKETS": str(PLACES), "MAX_SOCKETS_PER_USER": str(PLACES_OF_USER)}
    with Fleet(postgres_server, size=1, settings=limits) as fleet:
        yield fleet.instances[0]


@pytest.fixture
def user(instance: Instance) -> User:
    return User(instance).register()


@pytest.fixture(autouse=True)
def _no_traceback(instance: Instance) -> Iterator[None]:
    before = instance.log().count("Traceback")
    yield
    assert instance.log().count("Traceback") == before, instance.log()[-3000:]


def handshake(instance: Instance, user: User | None, **headers: str) -> httpx.Response:
    cookie = {"Cookie": user.cookie_header} if user else {}
    return web.get(f"{instance.url}{HANDSHAKE}polling", headers={**cookie, **headers})


def polling(instance: Instance, user: User) -> tuple[str, dict[str, str]]:
    """Open a socket by polling; return its URL and headers."""
    opened = json.loads(handshake(instance, user).text[1:])
    url, headers = f"{instance.url}{HANDSHAKE}polling&sid={opened['sid']}", {"Cookie": user.cookie_header}
    assert web.post(url, headers=headers, content="40").status_code == 200
    return url, headers


def test_sockets_are_limited_per_instance_and_for_anonymous_clients(instance: Instance) -> None:
    with ExitStack() as stack:
        strangers = [stack.enter_context(WebSocket(instance)) for _ in range(PLACES_OF_NOBODY)]
        assert [stranger.status for stranger in strangers] == [101, 101]
        assert handshake(instance, None).status_code == 503
        silent = User(instance).register()
        stack.enter_context(WebSocket(instance, silent))
        users = [User(instance).register() for _ in range(PLACES // PLACES_OF_USER + 1)]
        answers = [stack.enter_context(WebSocket(instance, user)).status for user in users for _ in range(PLACES_OF_USER)]
        assert (answers.count(101), answers.count(503)) == (PLACES - 3, 4 + 3)
        # Those who never introduce themselves are removed, all of them.
        wait_until(lambda: handshake(instance, silent).status_code == 200, timeout=14, what="a free place")
        assert all(stranger.ends() for stranger in strangers)


def test_sockets_are_limited_per_user(instance: Instance, user: User) -> None:
    with ExitStack() as stack:
        taken = [stack.enter_context(WebSocket(instance, user)) for _ in range(PLACES_OF_USER - 1)]
        url, headers = polling(instance, user)
        full = handshake(instance, user)
        assert (full.status_code, full.headers["Retry-After"]) == (503, "5")
        refused = stack.enter_context(WebSocket(instance, user))
        assert (refused.status, "Retry-After: 5" in refused.head) == (503, True)
        assert handshake(instance, User(instance).register()).status_code == 200

        taken[0].join().socket.close()
        stack.enter_context(Listener(user, transports=["websocket"])).connect(instance, retry=True)
        assert web.post(url, headers=headers, content="1\x1e1").status_code in (200, 400)
        wait_until(lambda: handshake(instance, user).status_code == 200, timeout=4, what="the place of the one that left")


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_socket_of_another_origin_is_refused_with_a_reason(instance: Instance, user: User, transport: str) -> None:
    with Listener(user, transports=[transport]) as listener:
        with suppress(Exception):
            listener.connect(instance, ready=False, Origin="https://elsewhere.example")
        wait_until(lambda: listener.connect_errors, what="connect_error")
        assert listener.connect_errors == [{"message": "unauthorized"}]
        assert listener.connections == 0


@pytest.mark.parametrize(
    "after", [-1, 2**63, 1.5, True, "7", [], {}, float("inf")], ids=lambda after: f"{type(after).__name__} {after}"
)
def test_invalid_resume_position_is_refused(instance: Instance, user: User, after: object) -> None:
    with WebSocket(instance, user) as websocket:
        websocket.send_text("40" + json.dumps({"after": after}))
        assert websocket.await_text("44") == '44{"message":"after must be the number of a notification"}'


ODD_PAYLOADS: list[Any] = [
    None, [], {}, "", 0, True, "x" * 60_000, [[[]]], {str(number): number for number in range(4_000)},
    {"after": None}, {"after": -1}, {"after": 2**63}, {"after": "1"}, {"after": 1.0}, {"after": [1]},
    {"repository_id": 2**70}, {"repository_id": "'; DROP TABLE users"}, {"repository_id": None},
]  # fmt: skip


@pytest.mark.parametrize("event", ["sync", "watch", "unwatch"])
def test_invalid_payloads_are_answered(instance: Instance, user: User, event: str) -> None:
    with WebSocket(instance, user).join() as websocket:
        for number, payload in enumerate(ODD_PAYLOADS):
            websocket.send_text(f"42{number}" + json.dumps([event, payload]))
            answer = json.loads(websocket.await_text(f"43{number}[").removeprefix(f"43{number}"))[0]
            assert answer["ok"] is False, payload
        websocket.send_text(f'42500["{event}"]')
        assert '"ok":false' in websocket.await_text("43500[")
        websocket.send_text('42501["sync",{"after":0},1,2,3]')
        assert websocket.await_text("43501[") == '43501[{"items":[],"head":0,"recovered":true}]'


MALFORMED = [
    "", "x", "9", "4", "4x", "4[]", "4null", "48", "42", "42{}", "42[]", "42[1]", "42[null]", '42["sync"', "42/a,[]",
    "42" + "[" * 60_000, "4" + "[" * 60_000, "4" + '{"a":' * 10_000, "42" + "9" * 200 + "[]", "43", "431[]", "44{}",
    "b!", "bAAAA", "451-[]", '4599999999-["sync",{"_placeholder":true,"num":0}]',
    '42["connect"]', '42["connect",{"after":0}]', '42["disconnect"]', '42["*"]',
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:40] or "empty")
def test_malformed_message_closes_the_connection_or_is_ignored(instance: Instance, user: User, text: str) -> None:
    with WebSocket(instance, user).join() as websocket:
        websocket.send_text(text)
        with suppress(OSError):
            websocket.send_text('427["sync",{"after":0}]')
        answers = [answer for answer in websocket_answers(websocket) if answer.startswith("43")]
        assert answers in ([], ['437[{"items":[],"head":0,"recovered":true}]'])
    url, headers = polling(instance, user)
    assert web.post(url, headers=headers, content=text).status_code in (200, 400)


def websocket_answers(websocket: WebSocket) -> Iterator[str]:
    for text in websocket.texts():
        yield text
        if text.startswith("437["):
            return


def test_reserved_event_names_have_no_effect(instance: Instance, user: User) -> None:
    """With the names of the server's own handlers, the socket would survive the end of its session."""
    with WebSocket(instance, user).join() as websocket, Listener(user).connect(instance):
        websocket.send_text('42["disconnect","x"]')
        with suppress(OSError):
            websocket.send_text('42["connect",{"after":0}]')
        assert user.post("/api/auth/logout").status_code == 204
        said = list(websocket.texts())
        assert [text for text in said if "ready" in text] == []
        assert websocket.ends()


def test_binary_attachments_do_not_accumulate(instance: Instance, user: User) -> None:
    with WebSocket(instance, user).join() as websocket:
        websocket.send_text('4599999999-["sync",{"_placeholder":true,"num":0}]')
        with suppress(OSError):
            for _ in range(100):
                websocket.send(BINARY, bytes(60_000))
        assert websocket.ends()


def test_invalid_websocket_handshakes_are_refused(instance: Instance, user: User) -> None:
    not_base64 = {"Sec-WebSocket-Key": "!!!!!!!!!!!!!!!!!!!!!!=="}
    for fault in ({"Sec-WebSocket-Key": ""}, not_base64, {"Sec-WebSocket-Version": ""}, {"Connection": "close"}):
        with WebSocket(instance, user, headers=fault) as websocket:
            assert websocket.status == 400, fault
    with WebSocket(instance, user, headers={"Sec-WebSocket-Version": "8"}) as websocket:
        assert (websocket.status, "Sec-WebSocket-Version: 13\r\n" in websocket.head) == (426, True)
    with WebSocket(instance, user, protocol="HTTP/1.0") as websocket:
        assert websocket.status == 400
    wait_until(lambda: handshake(instance, user).status_code == 200, what="a place")


def compressed(size: int) -> bytes:
    squeeze = zlib.compressobj(9, wbits=-15)
    return (squeeze.compress(bytes(size)) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


def send_bomb(websocket: WebSocket) -> None:
    websocket.send(TEXT, compressed(100 * MEGABYTE), compressed=True)


def send_large(websocket: WebSocket) -> None:
    websocket.send(TEXT, bytes(100 * MEGABYTE))


def send_large_in_parts(websocket: WebSocket) -> None:
    websocket.send(TEXT, b"4", final=False)
    for _ in range(1000):
        websocket.send(CONTINUATION, bytes(1000), final=False)


def send_empty_parts(websocket: WebSocket) -> None:
    websocket.send(TEXT, b"4", final=False)
    for _ in range(50):
        websocket.socket.sendall(websocket.frame(CONTINUATION, b"", final=False) * 10_000)


def send_tiny(websocket: WebSocket) -> None:
    for _ in range(50):
        websocket.socket.sendall(websocket.frame(TEXT, b"3") * 10_000)


def send_pongs(websocket: WebSocket) -> None:
    for _ in range(50):
        websocket.socket.sendall(websocket.frame(PONG, b"") * 10_000)


def send_pings(websocket: WebSocket) -> None:
    for _ in range(50):
        websocket.socket.sendall(websocket.frame(PING, b"x") * 10_000)


def send_events(websocket: WebSocket) -> None:
    for _ in range(50):
        websocket.socket.sendall(websocket.frame(TEXT, b'421["sync",{"after":0}]') * 1_000)


ATTACKS = [send_bomb, send_large, send_large_in_parts, send_empty_parts, send_tiny, send_pongs, send_pings, send_events]


@pytest.mark.serial
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attacker_is_disconnected_without_delaying_others(
    instance: Instance, user: User, machine: Machine, attack: Callable[[WebSocket], None]
) -> None:
    extension = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    with (
        Listener(User(instance).register()).connect(instance) as other,
        WebSocket(instance, user, headers=extension).join() as websocket,
    ):
        assert "deflate" not in websocket.head.lower()
        before = memory(instance)
        with probed(instance) as delays:
            with suppress(OSError):
                attack(websocket)
            assert websocket.ends()
            wait_until(lambda: len(delays) > count(15, 30), what="some probes")
        assert memory(instance) - before < 10 * MEGABYTE
        assert sorted(delays)[-2] < machine.limit(0.1), sorted(delays)[-5:]
        assert other.call("sync", {"after": 0}) == {"items": [], "head": 0, "recovered": True}


def test_socket_that_ignores_the_close_frame_is_aborted(instance: Instance, user: User) -> None:
    """The client answers neither the last event nor the close frame."""
    with WebSocket(instance, user).join() as websocket:
        assert user.post("/api/auth/logout").status_code == 204
        websocket.socket.settimeout(20)
        assert websocket.ends()


def test_a_connection_has_one_upgrade_at_a_time(instance: Instance, user: User) -> None:
    url, _ = polling(instance, user)
    sid = url.rpartition("sid=")[2]
    with ExitStack() as stack:
        upgrades = [stack.enter_context(WebSocket(instance, user, f"&sid={sid}")) for _ in range(5)]
        assert [upgrade.status for upgrade in upgrades] == [101, 400, 400, 400, 400]


def store(instance: Instance, user: User, count: int, size: int) -> None:
    """Insert notifications with long titles, without publishing them."""
    statement = """
        WITH mine AS (SELECT id FROM users WHERE email = %(email)s),
        added AS (INSERT INTO inboxes (user_id, head, read_up_to) SELECT id, %(count)s, 0 FROM mine)
        INSERT INTO notifications (user_id, seq, type, title, data, created_at)
        SELECT id, n, 'message', repeat('x', %(size)s), '{}', now() FROM mine, generate_series(1, %(count)s) n
    """
    with closing(psycopg2.connect(instance.environment["DATABASE_URL"])) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, {"email": user.email, "count": count, "size": size})


def notifications(texts: Iterator[str]) -> Iterator[dict[str, Any]]:
    for text in texts:
        if text.startswith('42["notification"'):
            yield json.loads(text[2:])[1]


@pytest.mark.serial
def test_clients_that_never_read_cost_little_memory_and_delay_nobody(instance: Instance, user: User, machine: Machine) -> None:
    count = 10_000
    with ExitStack() as stack:
        idle = stack.enter_context(WebSocket(instance, user, receive_buffer=4096))
        idle.send_text("40")
        polling(instance, user)
        reader = stack.enter_context(WebSocket(instance, user)).join()
        before = memory(instance)
        with probed(instance) as delays:
            store(instance, user, count, 1000)
            seqs = [item["seq"] for item in itertools.islice(notifications(reader.texts()), count)]
        assert seqs == list(range(1, count + 1))
        assert memory(instance) - before < 30 * MEGABYTE
        limit = machine.limit(0.1)
        assert len([delay for delay in delays if delay > limit]) <= len(delays) / 100, sorted(delays)[-5:]
        # Who reads after all goes on where it stopped.
        assert [item["seq"] for item in itertools.islice(notifications(idle.texts()), 1000)] == list(range(1, 1001))


def test_large_message_arrives_complete_over_websocket(instance: Instance, user: User) -> None:
    size, pings = 8 * MEGABYTE, 50
    with WebSocket(instance, user, receive_buffer=65_536).join() as slow:
        store(instance, user, 2, size)
        slow.socket.recv(1, socket.MSG_PEEK)  # it has begun, and can't go on
        for _ in range(pings):
            slow.send(PING, b"beat")
        frames = [slow.receive() for _ in range(2 + pings)]
    assert frames.count((PONG, b"beat")) == pings
    large = [json.loads(payload[2:])[1] for opcode, payload in frames if opcode == TEXT]
    assert [(item["seq"], item["title"] == "x" * size) for item in large] == [(1, True), (2, True)]


def test_large_message_arrives_complete_over_polling(instance: Instance, user: User) -> None:
    size = 8 * MEGABYTE
    store(instance, user, 1, size)
    with Listener(user, after=0, transports=["polling"]).connect(instance) as listener:
        assert [len(item["title"]) for item in listener.received("notification")] == [size]


def test_half_open_connection_does_no_harm(instance: Instance, user: User) -> None:
    """Incomplete handshakes, incomplete frames, and connections that end without a close frame."""
    with ExitStack() as stack:
        for part in (
            b"GET /socket.io/?EIO=4&transport=websocket HT",
            b"POST /socket.io/?sid=x HTTP/1.1\r\nContent-Length: 9\r\n\r\n4",
        ):
            stack.enter_context(socket.create_connection(("127.0.0.1", instance.port))).sendall(part)
        halves = [stack.enter_context(WebSocket(instance, user)).join() for _ in range(PLACES_OF_USER)]
        for half in halves:
            half.socket.sendall(half.frame(TEXT, bytes(100))[:50])
        half.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: handshake(instance, user).status_code == 200, timeout=4, what="the place of the one that vanished")
