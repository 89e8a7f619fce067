"""EventConsumer with a real Redis stream and a fake event store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import pytest
import redis

from app.analytics import event_stream
from app.analytics.event_stream import GROUP, EventConsumer, StoreRecord
from app.analytics.intake import RedisIntake
from app.analytics.partitions import SINGLE
from app.analytics.person import AnalyticsAccount, ConsentState
from app.analytics.store import AcceptedEvent
from app.core.errors import Unavailable
from app.redis.multiplexed import MultiplexedRedis
from harness.processes import wait_until
from tests.unit.analytics.conftest import event

OPEN = ConsentState("a1", version=0, is_granted=True)


class Storage:
    """A fake event store: stores each event once; names in `poison` raise, names in `later` are deferred."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.batches: list[int] = []
        self.poison: set[str] = set()
        self.later: set[str] = set()
        self.down = False
        self.error: Exception = ValueError("a value that does not fit")

    def store(self, batch: Sequence[AcceptedEvent], seconds: float) -> list[AcceptedEvent]:
        self.batches.append(len(batch))
        names = [one.event.name for one in batch]
        if self.down:
            raise Unavailable("The database does not answer.")
        if self.poison & set(names):
            raise self.error
        self.stored += [name for name in names if name not in self.later and name not in self.stored]
        return [one for one in batch if one.event.name in self.later]


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def send(redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> Callable[..., None]:
    place = RedisIntake(redis_client, multiplexed)

    def send(*names: str) -> None:
        place.accept(AnalyticsAccount(1), OPEN, [event(name) for name in names])

    return send


@pytest.fixture
def make(connect_redis: Callable[[], redis.Redis], storage: Storage) -> Callable[[str], EventConsumer]:
    def make(name: str) -> EventConsumer:
        consumer = EventConsumer(storage, connect_redis(), name)  # type: ignore[arg-type]
        consumer.process_batch()  # creates the consumer group
        return consumer

    return make


@pytest.fixture
def consumer(make: Callable[[str], EventConsumer]) -> EventConsumer:
    return make("first")


@contextmanager
def running(consumer: EventConsumer) -> Iterator[None]:
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield
    finally:
        consumer.stop()
        thread.join(10)
        assert not thread.is_alive()


def waiting(client: redis.Redis) -> tuple[int, int]:
    """Return the number of entries in the stream, and of those that are pending."""
    return client.xlen(SINGLE.stream), client.xpending(SINGLE.stream, GROUP)["pending"]


def test_stored_events_are_acknowledged_and_deleted(
    consumer: EventConsumer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    send("a", "b", "c")
    assert consumer.process_batch() == 3
    assert storage.stored == ["a", "b", "c"]
    assert storage.batches == [3]
    assert waiting(redis_client) == (0, 0)


def test_events_are_not_acknowledged_before_they_are_stored(
    consumer: EventConsumer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    send("a", "b")
    storage.down = True
    with pytest.raises(Unavailable):
        consumer.process_batch()
    assert waiting(redis_client) == (2, 2)
    storage.down = False
    consumer.process_batch()
    assert storage.stored == ["a", "b"]
    assert waiting(redis_client) == (0, 0)


def test_consumer_reads_at_most_one_batch_during_an_outage(
    consumer: EventConsumer,
    send: Callable[..., None],
    storage: Storage,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "BATCH", 3)
    send(*"abcde")
    storage.down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            consumer.process_batch()
    assert waiting(redis_client) == (5, 3)


def test_outage_is_logged_once(
    consumer: EventConsumer,
    send: Callable[..., None],
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(event_stream, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(event_stream, "BLOCK_MS", 10)
    message = "cannot store events of analytics:events, retrying every 0.01 s: Unavailable"

    def store_after_outage(name: str) -> None:
        storage.down = True
        send(name)
        enough = len(storage.batches) + 3
        wait_until(lambda: len(storage.batches) >= enough, what="several attempts to store the event")
        storage.down = False
        wait_until(lambda: name in storage.stored, what="the event to be stored")

    with running(consumer):
        store_after_outage("a")
        assert caplog.messages == [message]
        store_after_outage("b")
    assert caplog.messages == [message, message]


def test_event_that_cannot_be_stored_does_not_delay_others(
    consumer: EventConsumer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    storage.poison = {"c", "f"}
    send(*"abcdefg")
    consumer.process_batch()
    assert sorted(storage.stored) == list("abdeg")
    assert waiting(redis_client) == (0, 0)
    assert redis_client.xlen(SINGLE.dead_letters) == 2


@pytest.fixture
def claim_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pending entries are claimed again after 50 ms, without a wait for new ones."""
    monkeypatch.setattr(event_stream, "BLOCK_MS", 10)
    monkeypatch.setattr(event_stream, "STALE_MS", 50)
    monkeypatch.setattr(event_stream, "CLAIM_INTERVAL_SECONDS", 0.05)


@pytest.mark.usefixtures("claim_soon")
def test_error_that_is_not_the_events_own_leaves_it_in_the_stream(
    consumer: EventConsumer,
    send: Callable[..., None],
    storage: Storage,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage.poison, storage.error = set("cf"), RuntimeError("a defect")
    send(*"abcdefgh")
    with running(consumer):
        wait_until(lambda: sorted(storage.stored) == list("abdegh"), what="the others to be stored")
        send("i")
        wait_until(lambda: "i" in storage.stored, what="a later one to be stored")
        assert (waiting(redis_client), redis_client.xlen(SINGLE.dead_letters)) == ((2, 2), 0)
        storage.poison = set()
        wait_until(lambda: waiting(redis_client) == (0, 0), what="the rest to be stored")
    assert sorted(storage.stored) == list("abcdefghi")
    assert caplog.messages == ["cannot store events, they stay in the stream: RuntimeError: a defect"]


@pytest.mark.usefixtures("claim_soon")
def test_batch_in_which_every_event_fails_is_not_tried_event_by_event(
    consumer: EventConsumer,
    send: Callable[..., None],
    storage: Storage,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [f"event-{number}" for number in range(100)]
    storage.poison, storage.error = set(names), RuntimeError("a missing table")
    send(*names)
    with pytest.raises(RuntimeError):
        consumer.process_batch()
    assert len(storage.batches) < 20
    assert (waiting(redis_client), redis_client.xlen(SINGLE.dead_letters)) == ((100, 100), 0)
    delays: list[float] = []

    def wait(seconds: float) -> None:
        delays.append(seconds)
        time.sleep(0.06)

    monkeypatch.setattr(consumer._stop, "wait", wait)
    with running(consumer):
        wait_until(lambda: delays.count(event_stream.MAX_RETRY_SECONDS) > 1, what="the longest delay")
        storage.poison = set()
        wait_until(lambda: waiting(redis_client) == (0, 0), what="the events to be stored")
    assert [seconds for seconds in delays if seconds != event_stream.GATHER_SECONDS][:5] == [0.5, 1, 2, 4, 5]
    assert caplog.messages == ["cannot store events, they stay in the stream: RuntimeError: a missing table"]


@pytest.mark.parametrize(
    "fields",
    [
        {"what": "ever"},
        {"person": "a1", "version": "x", "event": b"{}"},
        {"person": b"\xff", "version": "0", "event": b"{}"},
        {"person": "a1", "version": "0", "event": b"\x00"},
    ],
)
def test_entry_that_is_not_an_event_is_dead_lettered(
    consumer: EventConsumer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis, fields: dict[str, bytes]
) -> None:
    send("a")
    redis_client.xadd(SINGLE.stream, fields)  # type: ignore[arg-type]
    send("b")
    consumer.process_batch()
    assert storage.stored == ["a", "b"]
    assert waiting(redis_client) == (0, 0)
    ((_, kept),) = cast(list[tuple[bytes, dict[bytes, bytes]]], redis_client.xrange(SINGLE.dead_letters))
    assert set(kept) == {b"reason", *(name.encode() for name in fields)}


def test_deferred_event_is_retried(
    consumer: EventConsumer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    storage.later = {"b"}
    send("a", "b", "c")
    consumer.process_batch()
    assert (storage.stored, waiting(redis_client)) == (["a", "c"], (1, 1))
    storage.later = set()
    consumer.process_batch()
    assert (storage.stored, waiting(redis_client)) == (["a", "c", "b"], (0, 0))


@pytest.mark.usefixtures("claim_soon")
def test_batch_of_deferred_events_does_not_delay_others(
    consumer: EventConsumer,
    send: Callable[..., None],
    storage: Storage,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "BATCH", 2)
    storage.later = {"a", "b"}
    send("a", "b", "c")
    with running(consumer):
        wait_until(lambda: storage.stored == ["c"], what="the other one to be stored")
        storage.later = set()
        wait_until(lambda: waiting(redis_client) == (0, 0), what="those who had to wait")
    assert storage.stored == ["c", "a", "b"]


@pytest.mark.usefixtures("claim_soon")
def test_stale_entries_of_another_consumer_are_claimed(
    make: Callable[[str], EventConsumer], send: Callable[..., None], storage: Storage
) -> None:
    dead, alive = make("dead"), make("alive")
    send("a", "b")
    storage.down = True
    with pytest.raises(Unavailable):
        dead.process_batch()
    storage.down = False
    with running(alive):
        wait_until(lambda: storage.stored == ["a", "b"], what="the other one to store them")


def test_consumer_survives_flushed_redis(
    consumer: EventConsumer, send: Callable[..., None], storage: Storage, redis_client: redis.Redis
) -> None:
    redis_client.flushall()
    with running(consumer):
        send("a")
        wait_until(lambda: storage.stored == ["a"], what="the event to be stored")


def test_consumer_retries_after_any_exception(
    consumer: EventConsumer, send: Callable[..., None], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "RETRY_SECONDS", 0.01)
    process_batch, failures = (
        consumer.process_batch,
        iter([RuntimeError("a fault"), redis.ConnectionError(), Unavailable("down")]),
    )

    def fail_first() -> int:
        if failure := next(failures, None):
            raise failure
        return process_batch()

    monkeypatch.setattr(consumer, "process_batch", fail_first)
    with running(consumer):
        send("a")
        wait_until(lambda: storage.stored == ["a"], what="the event to be stored")


def test_idle_consumers_are_deleted(
    make: Callable[[str], EventConsumer], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("ended")
    monkeypatch.setattr(event_stream, "IDLE_CONSUMER_MS", -1)
    make("alive")
    names = {consumer["name"] for consumer in redis_client.xinfo_consumers(SINGLE.stream, GROUP)}
    assert b"ended" not in names


def test_last_success_is_recorded(connect_redis: Callable[[], redis.Redis], storage: Storage) -> None:
    record = FakeTaskRecord()
    consumer = EventConsumer(storage, connect_redis(), "one", StoreRecord(record, [SINGLE]))  # type: ignore[arg-type]
    with running(consumer):
        wait_until(lambda: record.calls[-1:] == ["succeed store_events"], what="the first batch")
    assert record.calls[0] == "start store_events"


class FakeTaskRecord:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, task: str, interval: float) -> None:
        self.calls.append(f"start {task}")

    def succeed(self, task: str, interval: float) -> None:
        self.calls.append(f"succeed {task}")
