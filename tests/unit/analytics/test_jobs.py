"""Storing from a real stream, with a database that does as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import pytest
import redis

from app.analytics import jobs, stream
from app.analytics.intake import RedisIntake
from app.analytics.jobs import Storer
from app.analytics.person import Account, Standing
from app.analytics.store import Accepted
from app.analytics.stream import GROUP, POISON, STREAM, EventStream
from app.core.errors import Unavailable
from app.redis.multiplexed import MultiplexedRedis
from harness.processes import wait_until
from tests.unit.analytics.conftest import event

OPEN = Standing("a1", version=0, is_open=True)


class Storage:
    """Stores each event once, except for what it is told to refuse, to leave for later, or to fail with."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.batches: list[int] = []
        self.poison: set[str] = set()
        self.later: set[str] = set()
        self.down = False

    def store(self, batch: Sequence[Accepted], seconds: float) -> list[Accepted]:
        self.batches.append(len(batch))
        names = [one.event.name for one in batch]
        if self.down:
            raise Unavailable("The database does not answer.")
        if self.poison & set(names):
            raise ValueError("a value that does not fit")
        self.stored += [name for name in names if name not in self.later and name not in self.stored]
        return [one for one in batch if one.event.name in self.later]


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def send(redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> Callable[..., None]:
    place = RedisIntake(redis_client, multiplexed)

    def send(*names: str) -> None:
        place.take(Account(1), OPEN, [event(name) for name in names])

    return send


@pytest.fixture
def make(connect_redis: Callable[[], redis.Redis], storage: Storage) -> Callable[[str], Storer]:
    def make(consumer: str) -> Storer:
        storer = Storer(storage, EventStream(connect_redis(), consumer))  # type: ignore[arg-type]
        storer.turn()  # makes the group
        return storer

    return make


@pytest.fixture
def storer(make: Callable[[str], Storer]) -> Storer:
    return make("first")


@contextmanager
def running(storer: Storer) -> Iterator[None]:
    thread = threading.Thread(target=storer.run)
    thread.start()
    try:
        yield
    finally:
        storer.stop()
        thread.join(10)
        assert not thread.is_alive()


def waiting(client: redis.Redis) -> tuple[int, int]:
    """Entries in the stream, and those of them that somebody has read."""
    return client.xlen(STREAM), client.xpending(STREAM, GROUP)["pending"]


def test_what_is_stored_is_acknowledged_and_gone(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    send("a", "b", "c")
    assert storer.turn() == 3
    assert storage.stored == ["a", "b", "c"]
    assert storage.batches == [3]
    assert waiting(redis_client) == (0, 0)


def test_nothing_is_acknowledged_before_it_is_stored(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    send("a", "b")
    storage.down = True
    with pytest.raises(Unavailable):
        storer.turn()
    assert waiting(redis_client) == (2, 2)
    storage.down = False
    storer.turn()
    assert storage.stored == ["a", "b"]
    assert waiting(redis_client) == (0, 0)


def test_in_an_outage_it_holds_one_batch_and_no_more(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BATCH", 3)
    send(*"abcde")
    storage.down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            storer.turn()
    assert waiting(redis_client) == (5, 3)


def test_one_that_can_not_be_stored_delays_nobody(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    storage.poison = {"c", "f"}
    send(*"abcdefg")
    storer.turn()
    assert sorted(storage.stored) == list("abdeg")
    assert waiting(redis_client) == (0, 0)
    assert redis_client.xlen(POISON) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"what": "ever"},
        {"person": "a1", "version": "x", "event": b"{}"},
        {"person": b"\xff", "version": "0", "event": b"{}"},
        {"person": "a1", "version": "0", "event": b"\x00"},
    ],
)
def test_what_is_no_event_is_put_aside(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis, fields: dict[str, bytes]
) -> None:
    send("a")
    redis_client.xadd(STREAM, fields)  # type: ignore[arg-type]
    send("b")
    storer.turn()
    assert storage.stored == ["a", "b"]
    assert waiting(redis_client) == (0, 0)
    ((_, kept),) = cast(list[tuple[bytes, dict[bytes, bytes]]], redis_client.xrange(POISON))
    assert set(kept) == {name.encode() for name in fields}


def test_what_has_to_wait_is_tried_again(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    storage.later = {"b"}
    send("a", "b", "c")
    storer.turn()
    assert (storage.stored, waiting(redis_client)) == (["a", "c"], (1, 1))
    storage.later = set()
    storer.turn()
    assert (storage.stored, waiting(redis_client)) == (["a", "c", "b"], (0, 0))


def test_a_batch_full_of_those_who_have_to_wait_does_not_keep_back_the_others(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BATCH", 2)
    monkeypatch.setattr(stream, "ABANDONED_MS", 50)
    monkeypatch.setattr(stream, "CLAIM_SECONDS", 0.05)
    storage.later = {"a", "b"}
    send("a", "b", "c")
    with running(storer):
        wait_until(lambda: storage.stored == ["c"], 5, "the other one to be stored")
        storage.later = set()
        wait_until(lambda: waiting(redis_client) == (0, 0), 5, "those who had to wait")
    assert storage.stored == ["c", "a", "b"]


def test_what_somebody_has_left_is_found(
    make: Callable[[str], Storer], send: Callable[..., None], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ABANDONED_MS", 50)
    monkeypatch.setattr(stream, "CLAIM_SECONDS", 0.05)
    dead, alive = make("dead"), make("alive")
    send("a", "b")
    storage.down = True
    with pytest.raises(Unavailable):
        dead.turn()
    storage.down = False
    with running(alive):
        wait_until(lambda: storage.stored == ["a", "b"], 5, "the other one to store them")


def test_a_redis_that_was_emptied_does_no_harm(
    storer: Storer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    redis_client.flushall()
    with running(storer):
        send("a")
        wait_until(lambda: storage.stored == ["a"], 5, "the event to be stored")


def test_it_goes_on_after_whatever_happens(
    storer: Storer, send: Callable[..., None], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "OUTAGE_SECONDS", 0.01)
    turn, failures = storer.turn, iter([RuntimeError("a fault"), redis.ConnectionError(), Unavailable("down")])

    def fail_first() -> int:
        if failure := next(failures, None):
            raise failure
        return turn()

    monkeypatch.setattr(storer, "turn", fail_first)
    with running(storer):
        send("a")
        wait_until(lambda: storage.stored == ["a"], 5, "the event to be stored")


def test_consumers_that_have_ended_are_forgotten(
    make: Callable[[str], Storer], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("ended")
    monkeypatch.setattr(stream, "FORGOTTEN_MS", -1)
    make("alive")
    names = {consumer["name"] for consumer in redis_client.xinfo_consumers(STREAM, GROUP)}
    assert b"ended" not in names
