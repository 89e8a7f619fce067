"""The commands of nearly every request, through the shared connection and, where both must agree, through redis-py."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import gevent
import hiredis
import pytest
import redis
from gevent import monkey
from gevent.event import Event
from gevent.server import StreamServer

from app.core import config
from app.redis import multiplexed as multiplexed_module
from app.redis.client import MAX_CONNECTIONS, PooledRedis, RedisCommands, connect
from app.redis.multiplexed import MultiplexedRedis, _copy, _SharedConnection
from harness.git_server import issue_certificates
from harness.greenlets import until
from harness.lateness import time_limit
from harness.processes import free_port
from harness.servers import RedisServer, fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL

NAME = "test-multiplexed"
SHORT_SECONDS = 0.3  # the timeout of tests that wait until it expires

block_the_loop = monkey.get_original("time", "sleep")


class MultiTransportRedis(RedisServer):
    """A Redis that accepts TCP, TLS and Unix sockets."""

    def __init__(self) -> None:
        super().__init__(secrets.token_hex())
        self.tls_port = free_port()
        self.authority, self.certificate = issue_certificates(self.folder, ("127.0.0.1",))
        self.urls = {
            "tcp": self.url,
            "tls": f"rediss://:{self.password}@127.0.0.1:{self.tls_port}/0",
            "unix": f"unix://:{self.password}@{self.folder}/socket",
        }

    def _command(self) -> list[str]:
        files = ["--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.certificate)]
        tls = ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(self.authority)]
        return [*super()._command(), *tls, *files, "--unixsocket", f"{self.folder}/socket"]


C = TypeVar("C", bound=RedisCommands)
CLIENTS = [MultiplexedRedis, PooledRedis]
both_clients = pytest.mark.parametrize("commands", CLIENTS, indirect=True)
both_classes = pytest.mark.parametrize("client_class", CLIENTS)


@contextmanager
def connected(client_class: Callable[[redis.Redis], C], url: str, seconds: float = 5, **settings: str) -> Iterator[C]:
    client = connect(config.load(fleet_environment(url, UNUSED_DATABASE_URL, **settings)), NAME, timeout=seconds)
    commands = client_class(client)
    with gevent.Timeout(60):
        yield commands
    commands.close()
    client.close()


def multiplexed(url: str, seconds: float = 5, **settings: str) -> AbstractContextManager[MultiplexedRedis]:
    return connected(MultiplexedRedis, url, seconds, **settings)


@pytest.fixture
def shared(redis_url: str) -> Iterator[MultiplexedRedis]:
    with multiplexed(redis_url) as opened:
        yield opened


@pytest.fixture
def commands(redis_url: str, request: pytest.FixtureRequest) -> Iterator[RedisCommands]:
    with connected(request.param, redis_url) as opened:
        yield opened


@pytest.fixture
def other(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Another client of the same Redis."""
    with redis_server.client() as client:
        yield client


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def multi_transport() -> Iterator[MultiTransportRedis]:
    with MultiTransportRedis() as server:
        yield server


def connections(client: redis.Redis) -> list[str]:
    """The ids of the connections that the tested client has opened."""
    return [one["id"] for one in client.client_list() if one["name"] == NAME]


def concurrent_results(*works: Callable[[], Any]) -> list[Any]:
    """Run all calls at the same time and return what each returned or raised."""
    greenlets = [gevent.spawn(result, work) for work in works]
    return [greenlet.get() for greenlet in greenlets]


def result(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except redis.RedisError as error:
        return error


def types(found: list[Any]) -> set[type]:
    return {type(one) for one in found}


def echo(commands: RedisCommands, text: str) -> Callable[[], Any]:
    return lambda: commands.execute("ECHO", text)


def block_replies(shared: MultiplexedRedis, other: redis.Redis) -> gevent.Greenlet:
    """Later commands are answered only after something was pushed to the list `gate`."""
    waiting = gevent.spawn(result, lambda: shared.execute("BLPOP", "gate", 0))
    until(lambda: other.info("clients")["blocked_clients"])
    return waiting


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_thousand_concurrent_callers_get_their_own_replies_over_one_connection(
    multi_transport: MultiTransportRedis, way: str
) -> None:
    with (
        multiplexed(multi_transport.urls[way], REDIS_CA_FILE=str(multi_transport.authority)) as shared,
        multi_transport.client() as other,
    ):

        def check(number: int) -> bool:
            texts = [f"{number}-{turn}-" + "x" * ((number * 37 + turn) % 2000) for turn in range(5)]
            return [shared.execute("ECHO", text) for text in texts] == [text.encode() for text in texts]

        assert concurrent_results(*(lambda number=number: check(number) for number in range(1000))) == [True] * 1000
        assert len(connections(other)) == 1


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_large_values_do_not_mix_with_small_ones(multi_transport: MultiTransportRedis, way: str) -> None:
    large = bytes(range(256)) * 31_250
    with multiplexed(multi_transport.urls[way], REDIS_CA_FILE=str(multi_transport.authority)) as shared:
        small = [echo(shared, str(number)) for number in range(200)]
        found = concurrent_results(
            lambda: shared.execute("SET", "large", large), *small, lambda: shared.execute("GET", "large"), *small
        )
    answers = [str(number).encode() for number in range(200)]
    assert found == [b"OK", *answers, large, *answers]


def test_commands_of_one_loop_iteration_are_sent_together(shared: MultiplexedRedis, other: redis.Redis) -> None:
    shared.execute("PING")
    before = other.info("stats")["total_reads_processed"]
    concurrent_results(*[echo(shared, "text")] * 100)
    assert other.info("stats")["total_reads_processed"] - before < 10


@both_clients
def test_execute_all_returns_the_replies_in_order(commands: RedisCommands) -> None:
    assert commands.execute_all(("SET", "key", 7), ("GET", "key"), ("EXISTS", "none")) == [b"OK", b"7", 0]


@both_clients
def test_replies_are_raw(commands: RedisCommands) -> None:
    commands.execute("HSET", "hash", "field", b"\xff")
    found = [commands.execute(*one) for one in (("HGETALL", "hash"), ("HGETALL", "none"), ("SET", "key", 1), ("DEL", "key"))]
    assert found == [[b"field", b"\xff"], [], b"OK", 1]
    assert commands.execute_all(("HGETALL", "hash"), ("GET", "none")) == [[b"field", b"\xff"], None]


@both_clients
def test_error_of_one_command_is_raised_by_execute_all(commands: RedisCommands) -> None:
    with pytest.raises(redis.ResponseError):
        commands.execute_all(("PING",), ("NOSUCHCOMMAND",), ("PING",))
    assert commands.execute("PING") == b"PONG"


@both_clients
def test_unknown_script_is_loaded(commands: RedisCommands, other: redis.Redis) -> None:
    script = other.register_script("return {KEYS[1], ARGV[1]}")
    other.script_flush()
    assert [commands.run_script(list, script, ["key"], [number]) for number in (1, 2)] == [[b"key", b"1"], [b"key", b"2"]]


@both_clients
def test_connection_has_the_name_of_the_instance(commands: RedisCommands) -> None:
    assert commands.execute("CLIENT", "GETNAME") == NAME.encode()


def test_concurrent_first_callers_connect_once(shared: MultiplexedRedis, other: redis.Redis) -> None:
    before = other.info("stats")["total_connections_received"]
    assert concurrent_results(*[echo(shared, "text")] * 50) == [b"text"] * 50
    assert other.info("stats")["total_connections_received"] - before == 1


# Callers that were killed or timed out


def test_killed_or_timed_out_callers_take_no_reply_from_others(shared: MultiplexedRedis, other: redis.Redis) -> None:
    gate = block_replies(shared, other)

    def time_out() -> None:
        with gevent.Timeout(0.01, False):
            shared.execute("ECHO", "timed out")

    waiting = [gevent.spawn(echo(shared, str(number))) for number in range(9)]
    timed_out = gevent.spawn(time_out)
    gevent.sleep(0)
    gevent.killall([waiting[0], waiting[4], waiting[8]])
    timed_out.join()
    other.rpush("gate", "open")
    assert gate.get() == [b"gate", b"open"]
    alive = [number for number in range(9) if number not in (0, 4, 8)]
    assert [waiting[number].get() for number in alive] == [str(number).encode() for number in alive]
    assert shared.execute("ECHO", "later") == b"later"


def test_caller_killed_as_its_reply_arrives_is_not_woken_later(shared: MultiplexedRedis) -> None:
    def send_and_sleep() -> str:
        try:
            shared.execute("ECHO", "text")
        except gevent.GreenletExit:
            with gevent.Timeout(0.05, False):
                Event().wait()  # a late reply would be taken for the event
                return "woken"
        return "slept"

    shared.execute("PING")
    sending = gevent.spawn(send_and_sleep)
    gevent.sleep(0)
    gevent.sleep(0)
    block_the_loop(0.02)
    sending.kill(block=False)
    assert shared._connection
    shared._connection._receive()  # the reply has arrived and would be delivered right after the kill
    assert sending.get() == "slept"


# Errors from Redis


@both_clients
def test_error_replies_have_the_exception_types_of_redis_py(commands: RedisCommands, other: redis.Redis) -> None:
    other.set("text", "value")
    found = concurrent_results(
        echo(commands, "before"),
        lambda: commands.execute("HGETALL", "text"),
        lambda: commands.execute("EVALSHA", "0" * 40, 0),
        lambda: commands.execute("NOSUCHCOMMAND"),
        echo(commands, "after"),
    )
    assert [type(one) for one in found] == [
        bytes,
        redis.ResponseError,
        redis.exceptions.NoScriptError,
        redis.ResponseError,
        bytes,
    ]
    assert str(found[1]).startswith("WRONGTYPE")


@both_classes
def test_full_or_read_only_redis_is_an_error(client_class: type[RedisCommands], own_server: RedisServer) -> None:
    with connected(client_class, own_server.url) as shared, own_server.client() as other:
        other.config_set("maxmemory", 1)
        assert isinstance(result(lambda: shared.execute("SET", "key", 1)), redis.OutOfMemoryError)
        other.config_set("maxmemory", 0)
        other.replicaof("127.0.0.1", free_port())
        assert isinstance(result(lambda: shared.execute("SET", "key", 1)), redis.ReadOnlyError)
        other.replicaof("NO", "ONE")
        assert shared.execute("SET", "key", 1) == b"OK"


@both_classes
def test_wrong_password_is_an_error_for_every_caller(
    client_class: type[RedisCommands], multi_transport: MultiTransportRedis
) -> None:
    with connected(client_class, multi_transport.url.replace(str(multi_transport.password), secrets.token_hex())) as shared:
        assert types(concurrent_results(*[echo(shared, "text")] * 5)) == {redis.AuthenticationError}


@both_classes
def test_untrusted_certificate_is_rejected(
    client_class: type[RedisCommands], multi_transport: MultiTransportRedis, tmp_path: Any
) -> None:
    authority, _ = issue_certificates(tmp_path, ("127.0.0.1",))
    with connected(client_class, multi_transport.urls["tls"], REDIS_CA_FILE=str(authority)) as shared:
        assert types(concurrent_results(*[echo(shared, "text")] * 5)) == {redis.ConnectionError}


# Outages


def send_while_frozen(server: RedisServer, shared: MultiplexedRedis) -> tuple[list[Any], list[Any]]:
    """The results while Redis is frozen, and those after it has resumed and executed all commands."""
    shared.execute("PING")
    server.freeze()
    frozen = concurrent_results(*(echo(shared, f"frozen {number}") for number in range(100)))
    server.resume()
    with server.client() as other:
        until(lambda: other.info("commandstats").get("cmdstat_echo", {"calls": 0})["calls"] >= 100)
    later = concurrent_results(*(echo(shared, f"later {number}") for number in range(100)))
    return frozen, later


LATER = [f"later {number}".encode() for number in range(100)]


def test_frozen_redis_times_out_and_no_reply_reaches_the_wrong_caller(own_server: RedisServer) -> None:
    with multiplexed(own_server.url, SHORT_SECONDS) as shared, own_server.client() as other:
        with time_limit(10 * SHORT_SECONDS, "all commands"):
            frozen, later = send_while_frozen(own_server, shared)
        assert types(frozen) == {redis.TimeoutError}
        assert later == LATER
        assert len(connections(other)) == 1


def test_pooled_client_times_out_and_no_reply_reaches_the_wrong_caller(own_server: RedisServer) -> None:
    texts = [str(number) for number in range(MAX_CONNECTIONS)]
    with connected(PooledRedis, own_server.url, SHORT_SECONDS) as pooled:
        pooled.execute("PING")
        own_server.freeze()
        assert types(concurrent_results(*(echo(pooled, f"frozen {text}") for text in texts))) == {redis.TimeoutError}
        own_server.resume()
        assert concurrent_results(*(echo(pooled, text) for text in texts)) == [text.encode() for text in texts]


def test_connection_that_stays_open_after_a_timeout_would_mix_up_replies(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_open(connection: _SharedConnection, error: redis.RedisError) -> None:
        while connection._in_flight:
            connection._deliver(_copy(error))

    monkeypatch.setattr(_SharedConnection, "close", keep_open)
    monkeypatch.setattr(redis, "InvalidResponse", type("Never", (Exception,), {}))
    with multiplexed(own_server.url, SHORT_SECONDS) as shared:
        frozen, later = send_while_frozen(own_server, shared)
        assert types(frozen) == {redis.TimeoutError}
        assert later != LATER
        monkeypatch.undo()


def test_later_callers_wait_no_longer_while_redis_is_frozen(own_server: RedisServer) -> None:
    with multiplexed(own_server.url, SHORT_SECONDS) as shared:
        own_server.freeze()
        for _ in range(3):  # connecting does not finish in this time
            with time_limit(5 * SHORT_SECONDS, "the commands"):
                assert types(concurrent_results(*[echo(shared, "text")] * 20)) == {redis.TimeoutError}
        own_server.resume()
        assert shared.execute("ECHO", "text") == b"text"


def test_full_socket_buffer_does_not_block_the_event_loop(own_server: RedisServer) -> None:
    with multiplexed(own_server.url, SHORT_SECONDS) as shared:
        shared.execute("PING")
        own_server.freeze()
        sending = [gevent.spawn(result, lambda: shared.execute("SET", "key", b"x" * 2_000_000)) for _ in range(5)]
        ticks = 0
        while not all(greenlet.ready() for greenlet in sending):
            gevent.sleep(0.001)
            ticks += 1
        assert types([greenlet.get() for greenlet in sending]) == {redis.TimeoutError}
        assert ticks > 20
        own_server.resume()
        assert shared.execute("ECHO", "text") == b"text"


def test_reply_that_arrived_while_the_process_was_blocked_is_accepted(redis_url: str) -> None:
    with multiplexed(redis_url, SHORT_SECONDS) as shared:
        shared.execute("PING")
        sending = gevent.spawn(result, echo(shared, "text"))
        gevent.sleep(0)
        gevent.sleep(0)
        block_the_loop(2 * SHORT_SECONDS)
        assert sending.get() == b"text"


def test_all_replies_that_arrived_while_the_process_was_blocked_are_accepted(redis_url: str) -> None:
    """They are more than one read returns."""
    with multiplexed(redis_url, SHORT_SECONDS) as shared:
        shared.execute("PING")
        value = "x" * (multiplexed_module.BUFFER_BYTES // 20)
        waiting = [gevent.spawn(result, echo(shared, value)) for _ in range(100)]
        gevent.sleep(0)
        gevent.sleep(0)
        block_the_loop(SHORT_SECONDS * 1.5)
        assert [one.get() for one in waiting] == [value.encode()] * 100


def test_connection_closed_by_redis_fails_all_callers_and_is_reopened(shared: MultiplexedRedis, other: redis.Redis) -> None:
    gate = block_replies(shared, other)
    waiting = [gevent.spawn(result, echo(shared, "text")) for _ in range(50)]
    gevent.sleep(0)
    (first,) = connections(other)
    other.client_kill_filter(_id=first)
    assert types([one.get() for one in (gate, *waiting)]) == {redis.ConnectionError}
    assert concurrent_results(*[echo(shared, "text")] * 50) == [b"text"] * 50
    assert first not in connections(other)


def test_connection_lost_while_idle_causes_no_error(shared: MultiplexedRedis, other: redis.Redis) -> None:
    shared.execute("PING")
    other.client_kill_filter(_id=connections(other)[0])
    until(lambda: shared._connection is None)
    assert shared.execute("ECHO", "text") == b"text"


def test_stopped_redis_is_an_immediate_error_until_it_restarts(own_server: RedisServer) -> None:
    with multiplexed(own_server.url) as shared:
        shared.execute("PING")
        own_server.kill()
        until(lambda: shared._connection is None)
        with time_limit(1, "the commands"):
            for _ in range(20):
                assert types(concurrent_results(*[echo(shared, "text")] * 5)) == {redis.ConnectionError}
        own_server.start()
        assert shared.execute("ECHO", "text") == b"text"


def test_number_of_commands_in_flight_is_limited(
    shared: MultiplexedRedis, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexed_module, "MAX_IN_FLIGHT", 5)
    gate = block_replies(shared, other)
    waiting = [gevent.spawn(result, echo(shared, str(number))) for number in range(8)]
    gevent.joinall(waiting[4:])
    assert types([greenlet.get() for greenlet in waiting[4:]]) == {redis.ConnectionError}
    other.rpush("gate", "open")
    gate.join()
    assert [greenlet.get() for greenlet in waiting[:4]] == [b"0", b"1", b"2", b"3"]
    assert shared.execute("ECHO", "text") == b"text"


def test_close_fails_all_callers_and_the_next_command_reconnects(shared: MultiplexedRedis, other: redis.Redis) -> None:
    gate = block_replies(shared, other)
    shared.close()
    assert isinstance(gate.get(), redis.ConnectionError)
    until(lambda: not connections(other))
    assert shared.execute("ECHO", "text") == b"text"


@contextmanager
def serving(serve: Callable[[Any, Any], None]) -> Iterator[str]:
    """The URL of a server that does not speak the protocol of Redis."""
    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.server_port}/0"
    finally:
        server.stop()


def test_close_cancels_an_attempt_to_connect() -> None:
    greeted = Event()

    def never_reply(sock: Any, _: Any) -> None:
        while sock.recv(65_536):
            greeted.set()

    with serving(never_reply) as url, multiplexed(url) as shared:
        waiting = [gevent.spawn(result, echo(shared, "text")) for _ in range(3)]
        greeted.wait()
        shared.close()
        assert types([greenlet.get() for greenlet in waiting]) == {redis.ConnectionError}


@pytest.mark.parametrize("invalid", [b"+OK\r\n+OK\r\n", b"?\r\n"])
def test_invalid_replies_close_the_connection(invalid: bytes) -> None:
    connected = []

    def serve(sock: Any, _: Any) -> None:
        connected.append(sock)
        reader = hiredis.Reader()
        while received := sock.recv(65_536):
            reader.feed(received)
            while command := reader.gets():
                sock.sendall(invalid if command == [b"INVALID"] else b"+OK\r\n")

    with serving(serve) as url, multiplexed(url) as shared:
        result(lambda: shared.execute("INVALID"))
        until(lambda: shared._connection is None)
        assert shared.execute("PING") == b"OK"
        assert len(connected) == 2


@both_clients
def test_reply_of_a_wrong_type_drops_the_connection(commands: RedisCommands, other: redis.Redis) -> None:
    assert commands.checked(bytes, commands.execute("ECHO", "a")) == b"a"
    before = connections(other)
    with pytest.raises(redis.InvalidResponse, match="unexpected reply from Redis"):
        commands.checked(list, commands.execute("ECHO", "a"))
    until(lambda: not connections(other))
    assert commands.execute("ECHO", "b") == b"b"
    assert len(connections(other)) == len(before) == 1
    assert connections(other) != before


def test_dropped_connection_ends_the_commands_in_flight(shared: MultiplexedRedis, other: redis.Redis) -> None:
    waiting = block_replies(shared, other)
    late = gevent.spawn(result, echo(shared, "late"))
    gevent.sleep(0)
    shared.drop()
    assert types([waiting.get(), late.get()]) == {redis.InvalidResponse}
    assert shared.execute("ECHO", "next") == b"next"


def test_drop_without_a_connection_does_nothing(shared: MultiplexedRedis) -> None:
    shared.drop()
    assert shared.execute("ECHO", "a") == b"a"
