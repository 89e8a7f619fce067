"""The intake of a fleet, on one Redis server and on a cluster, and of an embedded instance: the same tests for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from app.analytics import intake
from app.analytics.event_stream import decode_entry
from app.analytics.intake import ACCEPTED, FULL, OPTED_OUT, UNKNOWN, DirectIntake, Intake, RedisIntake
from app.analytics.partitions import SINGLE, partitions_of
from app.analytics.person import AnalyticsAccount, ConsentState, HashedVisitor
from app.analytics.store import IN_FLIGHT, AcceptedEvent
from app.core.errors import Unavailable
from app.redis.client import RedisCommands
from app.redis.multiplexed import MultiplexedRedis
from harness.processes import wait_until
from harness.servers import RedisServer
from tests.unit.analytics.conftest import VISITOR, event
from tests.unit.conftest import set_clock

ADA = AnalyticsAccount(7)
OPTED_OUT_AT = datetime(2026, 11, 26, 12, 0, 0, 123000, tzinfo=UTC)
OPEN = ConsentState("a" + "1" * 31, version=3, is_granted=True)
OPTED_OUT_CONSENT = ConsentState("a" + "1" * 31, version=4, is_granted=False, opted_out_at=OPTED_OUT_AT)


class Stored(list[AcceptedEvent]):
    def store(self, batch: Sequence[AcceptedEvent], seconds: float) -> list[AcceptedEvent]:
        self.extend(batch)
        return []


Taken = Callable[[], list[AcceptedEvent]]


@pytest.fixture
def direct() -> tuple[Intake, Taken]:
    stored = Stored()
    return DirectIntake(stored), lambda: list(stored)  # type: ignore[arg-type]


@pytest.fixture
def shared(redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> tuple[Intake, Taken]:
    def taken() -> list[AcceptedEvent]:
        entries: Any = redis_client.xrange(SINGLE.stream)
        return [decode_entry(fields) for _, fields in entries]

    return RedisIntake(redis_client, multiplexed), taken


@pytest.fixture
def clustered(cluster_client: redis.Redis, cluster_commands: RedisCommands) -> tuple[Intake, Taken]:
    def taken() -> list[AcceptedEvent]:
        entries: list[Any] = []
        for partition in partitions_of(cluster_client):
            entries += cluster_client.xrange(partition.stream) or []
        return [decode_entry(fields) for _, fields in entries]

    return RedisIntake(cluster_client, cluster_commands), taken


@pytest.fixture(params=["direct", "shared", "clustered"])
def both_kinds(request: pytest.FixtureRequest) -> tuple[Intake, Taken]:
    found: tuple[Intake, Taken] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def place(both_kinds: tuple[Intake, Taken]) -> Intake:
    return both_kinds[0]


@pytest.fixture
def taken(both_kinds: tuple[Intake, Taken]) -> Taken:
    return both_kinds[1]


class TestTaking:
    def test_event_with_unknown_consent_is_not_accepted(self, place: Intake, taken: Taken) -> None:
        assert place.accept(ADA, None, [event()]) == UNKNOWN
        assert taken() == []

    def test_consent_from_sql_is_used_and_cached(self, place: Intake, taken: Taken) -> None:
        one, two = event(), event("opened", page="7", count=3)
        assert place.accept(ADA, OPEN, [one]) == ACCEPTED
        assert place.cached_consent(ADA) == OPEN
        assert place.accept(ADA, None, [two]) == ACCEPTED
        assert taken() == [AcceptedEvent(OPEN.pseudonym, 3, one), AcceptedEvent(OPEN.pseudonym, 3, two)]

    def test_event_is_not_accepted_after_an_opt_out(self, place: Intake, taken: Taken) -> None:
        assert place.accept(ADA, OPTED_OUT_CONSENT, [event()]) == OPTED_OUT
        assert place.cached_consent(ADA) == OPTED_OUT_CONSENT
        assert place.accept(ADA, None, [event()]) == OPTED_OUT
        assert taken() == []

    def test_consent_is_cached_per_person(self, place: Intake) -> None:
        place.accept(ADA, OPTED_OUT_CONSENT, [event()])
        assert place.accept(AnalyticsAccount(77), None, [event()]) == UNKNOWN
        assert place.cached_consent(VISITOR) is None

    def test_empty_batch_returns_the_outcome(self, place: Intake, taken: Taken) -> None:
        assert [place.accept(ADA, consent, []) for consent in (None, OPEN, None)] == [UNKNOWN, ACCEPTED, ACCEPTED]
        assert taken() == []

    def test_consent_from_sql_does_not_replace_cached_consent(self, place: Intake) -> None:
        place.accept(ADA, OPTED_OUT_CONSENT, [])
        place.accept(ADA, OPEN, [])
        assert place.cached_consent(ADA) == OPTED_OUT_CONSENT


class TestChanging:
    def test_nothing_is_cached_during_a_change(self, place: Intake, taken: Taken) -> None:
        place.accept(ADA, OPEN, [])
        place.begin_consent_change(ADA, 1)
        place.accept(ADA, OPEN, [])
        assert place.cached_consent(ADA) is None
        assert place.accept(ADA, None, [event()]) == UNKNOWN
        assert (
            place.accept(ADA, OPEN, [event()]) == ACCEPTED
        )  # under a version that is not stored any more once the change is made
        assert place.cached_consent(ADA) is None
        place.commit_consent(ADA, OPTED_OUT_CONSENT)
        assert place.cached_consent(ADA) == OPTED_OUT_CONSENT
        assert len(taken()) == 1

    def test_newest_of_concurrent_changes_is_cached(self, place: Intake) -> None:
        """The changes may be committed in reverse order."""
        later = ConsentState(OPEN.pseudonym, version=5, is_granted=True)
        place.begin_consent_change(ADA, 1)
        place.begin_consent_change(ADA, 1)
        place.commit_consent(ADA, later)
        assert place.cached_consent(ADA) is None
        place.commit_consent(ADA, OPTED_OUT_CONSENT)
        assert place.cached_consent(ADA) == later

    def test_consent_read_before_a_change_is_not_cached_after_it(self, place: Intake) -> None:
        place.begin_consent_change(ADA, 1)
        place.commit_consent(ADA, OPTED_OUT_CONSENT)
        assert place.accept(ADA, OPEN, [event()]) == OPTED_OUT
        assert place.cached_consent(ADA) == OPTED_OUT_CONSENT

    def test_opt_out_of_a_visitor_is_cached_briefly(self, place: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intake, "IN_FLIGHT", timedelta(milliseconds=50))
        place.begin_consent_change(VISITOR, 1)
        place.commit_consent(VISITOR, ConsentState(VISITOR.pseudonym, 1, is_granted=False, opted_out_at=OPTED_OUT_AT))
        assert place.accept(VISITOR, None, [event()]) in (OPTED_OUT, UNKNOWN)
        wait_until(lambda: place.accept(VISITOR, None, []) == UNKNOWN, what="the moment to pass")


class TestEmbedded:
    def test_aborted_change_is_forgotten(self, direct: tuple[Intake, Taken]) -> None:
        place, _ = direct
        place.begin_consent_change(ADA, 1)
        place.abort_consent_change(ADA)
        place.accept(ADA, OPEN, [])
        assert place.cached_consent(ADA) == OPEN

    def test_cached_consent_expires(self, direct: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch) -> None:
        place, _ = direct
        clock = set_clock(monkeypatch, intake)
        place.accept(ADA, OPEN, [])
        clock.now += intake.CONSENT_CACHE_SECONDS + 1
        assert place.cached_consent(ADA) is None

    def test_oldest_cached_people_are_evicted(self, direct: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch) -> None:
        place, _ = direct
        monkeypatch.setattr(intake, "MAX_CACHED_PEOPLE", 2)
        for number in range(3):
            place.accept(AnalyticsAccount(number), OPEN, [])
        assert [place.cached_consent(AnalyticsAccount(number)) is not None for number in range(3)] == [False, True, True]


class TestFleet:
    def test_mark_of_a_crashed_change_expires(
        self, shared: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
    ) -> None:
        """The instance was killed between the commit in SQL and in Redis."""
        place, _ = shared
        place.accept(ADA, OPEN, [])
        monkeypatch.setattr(intake, "CHANGE_MARGIN_SECONDS", 0)
        place.begin_consent_change(ADA, 1)
        place.abort_consent_change(ADA)
        assert place.accept(ADA, OPEN, []) == ACCEPTED
        assert place.cached_consent(ADA) is None
        wait_until(lambda: not redis_client.exists("analytics:changing:account:7"), what="the announcement to run out")
        assert place.accept(ADA, None, []) == UNKNOWN

    def test_full_stream_does_not_accept_events(
        self, shared: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
    ) -> None:
        place, _ = shared
        monkeypatch.setattr(intake, "MAX_BACKLOG", 5)
        assert place.accept(ADA, OPEN, [event() for _ in range(3)]) == ACCEPTED
        assert place.accept(ADA, None, [event() for _ in range(3)]) == FULL
        assert place.accept(ADA, None, [event() for _ in range(2)]) == ACCEPTED
        assert redis_client.xlen(SINGLE.stream) == 5

    def test_keys_of_consent_expire(self, shared: tuple[Intake, Taken], redis_client: redis.Redis) -> None:
        place, _ = shared
        place.accept(ADA, OPEN, [event()])
        place.begin_consent_change(AnalyticsAccount(8), 1)
        ages = {key: redis_client.ttl(key) for key in redis_client.keys("analytics:*") if key != SINGLE.stream.encode()}
        assert len(ages) == 2
        assert all(0 < age <= intake.CONSENT_CACHE_SECONDS for age in ages.values())

    def test_accepting_is_one_round_trip(self, shared: tuple[Intake, Taken], redis_server: RedisServer) -> None:
        place, _ = shared
        place.accept(ADA, OPEN, [])
        with redis_server.commands() as commands:
            place.accept(ADA, None, [event(), event()])
            place.cached_consent(ADA)
        assert [one.text.split()[0] for one in commands if one.client != "lua"] == ["EVALSHA", "GET", "EXISTS"]


class TestOutage:
    @pytest.fixture
    def place(self, redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> Intake:
        redis_client.set(SINGLE.stream, "no stream")
        redis_client.set("analytics:standing:account:7", "0 open a1 ")
        return RedisIntake(redis_client, multiplexed)

    def test_redis_error_raises_unavailable(self, place: Intake) -> None:
        with pytest.raises(Unavailable):
            place.accept(ADA, None, [event()])


def test_visitors_and_accounts_have_distinct_keys() -> None:
    assert len({AnalyticsAccount(1).key, AnalyticsAccount(11).key, HashedVisitor("v1").key}) == 3


def test_in_flight_period_is_shorter_than_the_cache() -> None:
    assert timedelta(seconds=intake.CONSENT_CACHE_SECONDS) > IN_FLIGHT


def test_short_change_does_not_shorten_the_mark_of_a_longer_one(redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> None:
    place = RedisIntake(redis_client, multiplexed)
    place.begin_consent_change(ADA, 100)
    place.begin_consent_change(ADA, 1)
    assert redis_client.ttl("analytics:changing:account:7") > 99
