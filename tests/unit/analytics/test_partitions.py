"""Accepted events in several partitions, on a Redis Cluster."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import pytest
import redis

from app.analytics import event_stream
from app.analytics.commands import list_dead_letters
from app.analytics.event_stream import EventConsumer, StreamMonitor, count_waiting, create_consumers
from app.analytics.intake import ACCEPTED, FULL, RedisIntake
from app.analytics.partitions import PARTITIONS_OF_CLUSTER, SINGLE, partition_of, partitions_of
from app.analytics.person import AnalyticsAccount, ConsentState
from app.analytics.store import AcceptedEvent
from app.jobs.task_record import LocalTaskRecord
from app.redis.client import RedisCommands
from app.redis.cluster import SLOTS, slot_of_key
from harness.processes import wait_until
from tests.unit.analytics.conftest import event
from tests.unit.conftest import count_of

PEOPLE = [AnalyticsAccount(number) for number in range(60)]
OPEN = ConsentState("a1", version=0, is_granted=True)


class Storage:
    """A fake event store, which refuses the events named "bad"."""

    def __init__(self) -> None:
        self.stored: Counter[str] = Counter()
        self.concurrent = self.most_concurrent = 0

    def store(self, batch: Sequence[AcceptedEvent], seconds: float) -> list[AcceptedEvent]:
        self.concurrent += 1
        self.most_concurrent = max(self.concurrent, self.most_concurrent)
        try:
            if any(accepted.event.name == "bad" for accepted in batch):
                raise ValueError("a value that does not fit")
            self.stored.update(accepted.event.event_id for accepted in batch)
        finally:
            self.concurrent -= 1
        return []


@pytest.fixture
def intake(cluster_client: redis.Redis, cluster_commands: RedisCommands) -> RedisIntake:
    return RedisIntake(cluster_client, cluster_commands)


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def consumers(cluster_client: redis.Redis, storage: Storage) -> list[EventConsumer]:
    return create_consumers(storage, cluster_client, "worker", LocalTaskRecord())  # type: ignore[arg-type]


def store_all(consumers: Sequence[EventConsumer], client: redis.Redis) -> None:
    while count_waiting(client):
        for consumer in consumers:
            consumer.process_batch()


@pytest.fixture(autouse=True)
def no_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "BLOCK_MS", 1)


def test_single_server_has_one_partition_with_names_without_a_tag(redis_client: redis.Redis) -> None:
    assert partitions_of(redis_client) == (SINGLE,)
    assert (SINGLE.stream, SINGLE.dead_letters) == ("analytics:events", "analytics:poison")
    assert SINGLE.consent_keys(AnalyticsAccount(7)) == ["analytics:standing:account:7", "analytics:changing:account:7"]


def test_keys_of_a_partition_have_one_slot(cluster_client: redis.Redis) -> None:
    for partition in partitions_of(cluster_client):
        keys = [partition.stream, partition.dead_letters, *partition.consent_keys(AnalyticsAccount(7))]
        assert len({slot_of_key(key) for key in keys}) == 1


@pytest.mark.parametrize("masters", [2, 3, 6])
def test_masters_have_equal_numbers_of_partitions(cluster_client: redis.Redis, masters: int) -> None:
    shares = Counter(slot_of_key(partition.stream) * masters // SLOTS for partition in partitions_of(cluster_client))
    assert shares == dict.fromkeys(range(masters), PARTITIONS_OF_CLUSTER // masters)


def test_people_are_spread_over_all_partitions(cluster_client: redis.Redis) -> None:
    shares = Counter(partition_of(AnalyticsAccount(number), partitions_of(cluster_client)) for number in range(6000))
    assert all(900 < share < 1100 for share in shares.values())


def test_events_of_all_partitions_are_stored_once(
    intake: RedisIntake, consumers: list[EventConsumer], storage: Storage, cluster_client: redis.Redis
) -> None:
    for person in PEOPLE:
        assert intake.accept(person, OPEN, [event(event_id=f"{person.user_id}-{number}") for number in range(3)]) == ACCEPTED
    assert count_waiting(cluster_client) == 180
    assert all(cluster_client.xlen(partition.stream) for partition in partitions_of(cluster_client))
    store_all(consumers, cluster_client)
    assert storage.stored == {f"{person.user_id}-{number}": 1 for person in PEOPLE for number in range(3)}


def test_consumers_of_a_process_store_one_after_the_other(
    intake: RedisIntake, consumers: list[EventConsumer], storage: Storage
) -> None:
    """The database connections of a worker are for its jobs too."""
    for consumer in consumers:
        consumer.process_batch()  # creates the consumer group
    for person in PEOPLE:
        intake.accept(person, OPEN, [event()])
    threads = [threading.Thread(target=consumer.process_batch) for consumer in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (storage.stored.total(), storage.most_concurrent) == (60, 1)


class FakeTaskRecord(LocalTaskRecord):
    def __init__(self) -> None:
        self.succeeded = threading.Event()

    def succeed(self, task: str, interval: float) -> None:
        self.succeeded.set()


def test_task_does_not_succeed_while_one_partition_fails(
    intake: RedisIntake, storage: Storage, cluster_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    record = FakeTaskRecord()
    consumers = create_consumers(storage, cluster_client, "worker", record)  # type: ignore[arg-type]
    failing = partitions_of(cluster_client)[0].stream
    cluster_client.set(failing, "not a stream")
    threads = [threading.Thread(target=consumer.run) for consumer in consumers]
    for thread in threads:
        thread.start()
    try:
        others = [person for person in PEOPLE if partition_of(person, partitions_of(cluster_client)).stream != failing]
        for person in others:
            intake.accept(person, OPEN, [event()])
        wait_until(lambda: storage.stored.total() == len(others), what="the other partitions to store their events")
        wait_until(lambda: f"cannot store events of {failing}" in caplog.text, what="the failure")
        assert not record.succeeded.is_set()
        cluster_client.delete(failing)
        assert record.succeeded.wait(30)
    finally:
        for consumer in consumers:
            consumer.stop()
        for thread in threads:
            thread.join()


def test_backlog_is_limited_in_each_partition(intake: RedisIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.analytics.intake.MAX_BACKLOG", 5 * PARTITIONS_OF_CLUSTER)
    one = PEOPLE[0]
    assert intake.accept(one, OPEN, [event() for _ in range(5)]) == ACCEPTED
    assert intake.accept(one, OPEN, [event()]) == FULL


def test_dead_letters_of_all_partitions_are_listed_and_replayed(
    intake: RedisIntake, consumers: list[EventConsumer], cluster_client: redis.Redis
) -> None:
    for person in PEOPLE:
        intake.accept(person, OPEN, [event("bad")])
    store_all(consumers, cluster_client)
    StreamMonitor(cluster_client).find_warning()
    assert count_of("reporadar_events_put_aside") == 60
    assert list(list_dead_letters(cluster_client, replay=False))[-1] == "60 dead letters"
    assert list(list_dead_letters(cluster_client, replay=True))[-1] == "60 dead letters, 60 put back into the stream"
    assert count_waiting(cluster_client) == 60


def test_old_events_of_any_partition_are_a_warning(cluster_client: redis.Redis) -> None:
    cluster_client.xadd(partitions_of(cluster_client)[-1].stream, {"event": "old"}, id="1000-1")
    assert "check that a worker is running" in (StreamMonitor(cluster_client).find_warning() or "")
