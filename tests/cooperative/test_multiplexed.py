from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import hiredis
import pytest
import redis
from gevent import monkey
from gevent.event import Event
from gevent.server import StreamServer

from app.core import config
from app.redis import multiplexed as module
from app.redis.client import connect
from app.redis.multiplexed import MultiplexedRedis, _copy, _Line
from harness.git_server import issue_certificates
from harness.processes import free_port
from harness.servers import RedisServer, fleet_environment
from tests.cooperative.test_queue import until
from tests.unit.conftest import UNUSED_DATABASE_URL

NAME = "test-multiplexed"
SHORT_SECONDS = 0.3  # the time that a command has where it is to run out

block_the_loop = monkey.get_original("time", "sleep")


class ManyWays(RedisServer):
    """Listens for TLS and on a Unix socket as well."""

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


@contextmanager
def multiplexing(url: str, seconds: float = 5, **settings: str) -> Iterator[MultiplexedRedis]:
    client = connect(config.load(fleet_environment(url, UNUSED_DATABASE_URL, **settings)), NAME, timeout=seconds)
    multiplexed = MultiplexedRedis(client)
    with gevent.Timeout(60):
        yield multiplexed
    multiplexed.close()
    client.close()


@pytest.fixture
def shared(redis_url: str) -> Iterator[MultiplexedRedis]:
    with multiplexing(redis_url) as multiplexed:
        yield multiplexed


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
def many_ways() -> Iterator[ManyWays]:
    with ManyWays() as server:
        yield server


def connections(client: redis.Redis) -> list[str]:
    """The ids of ours."""
    return [one["id"] for one in client.client_list() if one["name"] == NAME]


def outcomes(*works: Callable[[], Any]) -> list[Any]:
    """What each of them returned or raised, at the same time."""
    greenlets = [gevent.spawn(outcome, work) for work in works]
    return [greenlet.get() for greenlet in greenlets]


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except redis.RedisError as error:
        return error


def kinds(found: list[Any]) -> set[type]:
    return {type(one) for one in found}


def echo(multiplexed: MultiplexedRedis, text: str) -> Callable[[], Any]:
    return lambda: multiplexed.execute("ECHO", text)


def shut_gate(multiplexed: MultiplexedRedis, other: redis.Redis) -> gevent.Greenlet:
    """Whatever is asked after this is answered only when something is pushed to the list `gate`."""
    waiting = gevent.spawn(outcome, lambda: multiplexed.execute("BLPOP", "gate", 0))
    until(lambda: other.info("clients")["blocked_clients"])
    return waiting


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_a_thousand_at_once_get_each_their_own_answers_over_one_connection(many_ways: ManyWays, way: str) -> None:
    with multiplexing(many_ways.urls[way], REDIS_CA_FILE=str(many_ways.authority)) as shared, many_ways.client() as other:

        def ask(number: int) -> bool:
            texts = [f"{number}-{turn}-" + "x" * ((number * 37 + turn) % 2000) for turn in range(5)]
            return [shared.execute("ECHO", text) for text in texts] == [text.encode() for text in texts]

        assert outcomes(*(lambda number=number: ask(number) for number in range(1000))) == [True] * 1000
        assert len(connections(other)) == 1


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_large_values_do_not_stand_in_the_way_of_small_ones(many_ways: ManyWays, way: str) -> None:
    large = bytes(range(256)) * 31_250
    with multiplexing(many_ways.urls[way], REDIS_CA_FILE=str(many_ways.authority)) as shared:
        small = [echo(shared, str(number)) for number in range(200)]
        found = outcomes(lambda: shared.execute("SET", "large", large), *small, lambda: shared.execute("GET", "large"), *small)
    answers = [str(number).encode() for number in range(200)]
    assert found == [b"OK", *answers, large, *answers]


def test_what_is_asked_in_one_turn_is_sent_at_once(shared: MultiplexedRedis, other: redis.Redis) -> None:
    shared.execute("PING")
    before = other.info("stats")["total_reads_processed"]
    outcomes(*[echo(shared, "text")] * 100)
    assert other.info("stats")["total_reads_processed"] - before < 10


def test_several_commands_in_one_go(shared: MultiplexedRedis) -> None:
    assert shared.execute_all(("SET", "key", 7), ("GET", "key"), ("EXISTS", "none")) == [b"OK", b"7", 0]


def test_a_script_is_loaded_when_redis_does_not_know_it(shared: MultiplexedRedis, other: redis.Redis) -> None:
    script = other.register_script("return {KEYS[1], ARGV[1]}")
    other.script_flush()
    assert [shared.run_script(script, ["key"], [number]) for number in (1, 2)] == [[b"key", b"1"], [b"key", b"2"]]


def test_the_connection_bears_the_name_of_the_instance(shared: MultiplexedRedis) -> None:
    assert shared.execute("CLIENT", "GETNAME") == NAME.encode()


def test_many_who_come_first_connect_once(shared: MultiplexedRedis, other: redis.Redis) -> None:
    before = other.info("stats")["total_connections_received"]
    assert outcomes(*[echo(shared, "text")] * 50) == [b"text"] * 50
    assert other.info("stats")["total_connections_received"] - before == 1


# Callers that do not wait any more.


def test_who_is_killed_or_gives_up_takes_no_answer_from_others(shared: MultiplexedRedis, other: redis.Redis) -> None:
    gate = shut_gate(shared, other)

    def give_up() -> None:
        with gevent.Timeout(0.01, False):
            shared.execute("ECHO", "given up")

    waiting = [gevent.spawn(echo(shared, str(number))) for number in range(9)]
    impatient = gevent.spawn(give_up)
    gevent.sleep(0)
    gevent.killall([waiting[0], waiting[4], waiting[8]])
    impatient.join()
    other.rpush("gate", "open")
    assert gate.get() == [b"gate", b"open"]
    alive = [number for number in range(9) if number not in (0, 4, 8)]
    assert [waiting[number].get() for number in alive] == [str(number).encode() for number in alive]
    assert shared.execute("ECHO", "later") == b"later"


def test_who_is_killed_in_the_moment_of_the_answer_is_not_woken_later(shared: MultiplexedRedis) -> None:
    def ask_and_sleep() -> str:
        try:
            shared.execute("ECHO", "text")
        except gevent.GreenletExit:
            with gevent.Timeout(0.05, False):
                Event().wait()  # in which the answer would be taken for the event
                return "woken"
        return "slept"

    shared.execute("PING")
    asking = gevent.spawn(ask_and_sleep)
    gevent.sleep(0)
    gevent.sleep(0)
    block_the_loop(0.02)
    asking.kill(block=False)
    assert shared._line
    shared._line._receive()  # the answer has come, and is to be handed over right after the kill
    assert asking.get() == "slept"


# Errors of Redis.


def test_what_redis_refuses_is_raised_as_redis_py_raises_it(shared: MultiplexedRedis, other: redis.Redis) -> None:
    other.set("text", "value")
    found = outcomes(
        echo(shared, "before"),
        lambda: shared.execute("HGETALL", "text"),
        lambda: shared.execute("EVALSHA", "0" * 40, 0),
        lambda: shared.execute("NOSUCHCOMMAND"),
        echo(shared, "after"),
    )
    assert [type(one) for one in found] == [
        bytes,
        redis.ResponseError,
        redis.exceptions.NoScriptError,
        redis.ResponseError,
        bytes,
    ]
    assert str(found[1]).startswith("WRONGTYPE")


def test_a_redis_that_is_full_or_follows_another_refuses(own_server: RedisServer) -> None:
    with multiplexing(own_server.url) as shared, own_server.client() as other:
        other.config_set("maxmemory", 1)
        assert isinstance(outcome(lambda: shared.execute("SET", "key", 1)), redis.OutOfMemoryError)
        other.config_set("maxmemory", 0)
        other.replicaof("127.0.0.1", free_port())
        assert isinstance(outcome(lambda: shared.execute("SET", "key", 1)), redis.ReadOnlyError)
        other.replicaof("NO", "ONE")
        assert shared.execute("SET", "key", 1) == b"OK"


def test_a_wrong_password_is_told_to_all(many_ways: ManyWays) -> None:
    with multiplexing(many_ways.url.replace(str(many_ways.password), secrets.token_hex())) as shared:
        assert kinds(outcomes(*[echo(shared, "text")] * 5)) == {redis.AuthenticationError}


def test_a_certificate_that_is_not_trusted_is_refused(many_ways: ManyWays, tmp_path: Any) -> None:
    authority, _ = issue_certificates(tmp_path, ("127.0.0.1",))
    with multiplexing(many_ways.urls["tls"], REDIS_CA_FILE=str(authority)) as shared:
        assert kinds(outcomes(*[echo(shared, "text")] * 5)) == {redis.ConnectionError}


# Outages.


def freeze_and_ask(server: RedisServer, shared: MultiplexedRedis) -> tuple[list[Any], list[Any]]:
    """The outcomes while Redis stands still, and after it has gone on and answered them all."""
    shared.execute("PING")
    server.freeze()
    frozen = outcomes(*(echo(shared, f"frozen {number}") for number in range(100)))
    server.resume()
    with server.client() as other:
        until(lambda: other.info("commandstats").get("cmdstat_echo", {"calls": 0})["calls"] >= 100)
    later = outcomes(*(echo(shared, f"later {number}") for number in range(100)))
    return frozen, later


LATER = [f"later {number}".encode() for number in range(100)]


def test_a_redis_that_stands_still_costs_all_their_time_and_no_answer_is_taken_for_another(own_server: RedisServer) -> None:
    with multiplexing(own_server.url, SHORT_SECONDS) as shared, own_server.client() as other:
        started = time.monotonic()
        frozen, later = freeze_and_ask(own_server, shared)
        assert kinds(frozen) == {redis.TimeoutError}
        assert later == LATER
        assert len(connections(other)) == 1
        assert time.monotonic() - started < 10 * SHORT_SECONDS


def test_a_connection_that_is_kept_would_take_one_answer_for_another(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(line: _Line, error: redis.RedisError) -> None:
        while line._waiting:
            line._hand_over(_copy(error))

    monkeypatch.setattr(_Line, "drop", keep)
    monkeypatch.setattr(redis, "InvalidResponse", type("Never", (Exception,), {}))
    with multiplexing(own_server.url, SHORT_SECONDS) as shared:
        frozen, later = freeze_and_ask(own_server, shared)
        assert kinds(frozen) == {redis.TimeoutError}
        assert later != LATER
        monkeypatch.undo()


def test_while_redis_stands_still_who_comes_next_waits_no_longer(own_server: RedisServer) -> None:
    with multiplexing(own_server.url, SHORT_SECONDS) as shared:
        own_server.freeze()
        for _ in range(3):  # in which connecting does not come to an end
            started = time.monotonic()
            assert kinds(outcomes(*[echo(shared, "text")] * 20)) == {redis.TimeoutError}
            assert time.monotonic() - started < 5 * SHORT_SECONDS
        own_server.resume()
        assert shared.execute("ECHO", "text") == b"text"


def test_more_than_the_socket_takes_does_not_stop_the_event_loop(own_server: RedisServer) -> None:
    with multiplexing(own_server.url, SHORT_SECONDS) as shared:
        shared.execute("PING")
        own_server.freeze()
        asking = [gevent.spawn(outcome, lambda: shared.execute("SET", "key", b"x" * 2_000_000)) for _ in range(5)]
        ticks = 0
        while not all(greenlet.ready() for greenlet in asking):
            gevent.sleep(0.001)
            ticks += 1
        assert kinds([greenlet.get() for greenlet in asking]) == {redis.TimeoutError}
        assert ticks > 20
        own_server.resume()
        assert shared.execute("ECHO", "text") == b"text"


def test_a_process_that_was_late_itself_takes_the_answer(redis_url: str) -> None:
    with multiplexing(redis_url, SHORT_SECONDS) as shared:
        shared.execute("PING")
        asking = gevent.spawn(outcome, echo(shared, "text"))
        gevent.sleep(0)
        gevent.sleep(0)
        block_the_loop(2 * SHORT_SECONDS)
        assert asking.get() == b"text"


def test_a_connection_that_redis_ends_is_an_error_for_all_who_wait_and_then_made_again(
    shared: MultiplexedRedis, other: redis.Redis
) -> None:
    gate = shut_gate(shared, other)
    waiting = [gevent.spawn(outcome, echo(shared, "text")) for _ in range(50)]
    gevent.sleep(0)
    (first,) = connections(other)
    other.client_kill_filter(_id=first)
    assert kinds([one.get() for one in (gate, *waiting)]) == {redis.ConnectionError}
    assert outcomes(*[echo(shared, "text")] * 50) == [b"text"] * 50
    assert first not in connections(other)


def test_a_connection_that_was_lost_in_between_is_nobodys_error(shared: MultiplexedRedis, other: redis.Redis) -> None:
    shared.execute("PING")
    other.client_kill_filter(_id=connections(other)[0])
    until(lambda: shared._line is None)
    assert shared.execute("ECHO", "text") == b"text"


def test_a_redis_that_is_away_is_an_error_at_once_until_it_is_back(own_server: RedisServer) -> None:
    with multiplexing(own_server.url) as shared:
        shared.execute("PING")
        own_server.kill()
        until(lambda: shared._line is None)
        started = time.monotonic()
        for _ in range(20):
            assert kinds(outcomes(*[echo(shared, "text")] * 5)) == {redis.ConnectionError}
        assert time.monotonic() - started < 1
        own_server.start()
        assert shared.execute("ECHO", "text") == b"text"


def test_so_many_may_wait_and_no_more(shared: MultiplexedRedis, other: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    gate = shut_gate(shared, other)
    waiting = [gevent.spawn(outcome, echo(shared, str(number))) for number in range(8)]
    gevent.joinall(waiting[4:])
    assert kinds([greenlet.get() for greenlet in waiting[4:]]) == {redis.ConnectionError}
    other.rpush("gate", "open")
    gate.join()
    assert [greenlet.get() for greenlet in waiting[:4]] == [b"0", b"1", b"2", b"3"]
    assert shared.execute("ECHO", "text") == b"text"


def test_closing_ends_all_waiting_and_the_next_one_connects_again(shared: MultiplexedRedis, other: redis.Redis) -> None:
    gate = shut_gate(shared, other)
    shared.close()
    assert isinstance(gate.get(), redis.ConnectionError)
    until(lambda: not connections(other))
    assert shared.execute("ECHO", "text") == b"text"


@contextmanager
def serving(serve: Callable[[Any, Any], None]) -> Iterator[str]:
    """The URL of a server that is no Redis."""
    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.server_port}/0"
    finally:
        server.stop()


def test_closing_ends_an_attempt_to_connect() -> None:
    greeted = Event()

    def say_nothing(sock: Any, _: Any) -> None:
        while sock.recv(65_536):
            greeted.set()

    with serving(say_nothing) as url, multiplexing(url) as shared:
        waiting = [gevent.spawn(outcome, echo(shared, "text")) for _ in range(3)]
        greeted.wait()
        shared.close()
        assert kinds([greenlet.get() for greenlet in waiting]) == {redis.ConnectionError}


@pytest.mark.parametrize("nonsense", [b"+OK\r\n+OK\r\n", b"?\r\n"])
def test_a_server_that_does_not_speak_as_redis_does_is_left(nonsense: bytes) -> None:
    connected = []

    def serve(sock: Any, _: Any) -> None:
        connected.append(sock)
        reader = hiredis.Reader()
        while received := sock.recv(65_536):
            reader.feed(received)
            while command := reader.gets():
                sock.sendall(nonsense if command == [b"NONSENSE"] else b"+OK\r\n")

    with serving(serve) as url, multiplexing(url) as shared:
        outcome(lambda: shared.execute("NONSENSE"))
        until(lambda: shared._line is None)
        assert shared.execute("PING") == b"OK"
        assert len(connected) == 2
