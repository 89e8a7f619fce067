"""The same promises of a fleet's intake and of an embedded instance's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
import redis

from app.analytics import intake
from app.analytics.intake import CLOSED, FULL, TAKEN, UNKNOWN, DirectIntake, Intake, RedisIntake
from app.analytics.person import Account, Standing, Visitor
from app.analytics.store import ON_THE_WAY, Accepted
from app.analytics.stream import GROUP, STREAM, EventStream
from app.core.errors import Unavailable
from app.redis.multiplexed import MultiplexedRedis
from harness.processes import wait_until
from harness.servers import RedisServer
from tests.unit.analytics.conftest import PASSER, event
from tests.unit.conftest import Clock

ADA = Account(7)
FENCED_AT = datetime(2026, 11, 26, 12, 0, 0, 123000, tzinfo=UTC)
OPEN = Standing("a" + "1" * 31, version=3, is_open=True)
CLOSED_FOR_GOOD = Standing("a" + "1" * 31, version=4, is_open=False, fenced_at=FENCED_AT)


class Stored(list[Accepted]):
    def store(self, batch: Sequence[Accepted], seconds: float) -> list[Accepted]:
        self.extend(batch)
        return []


Taken = Callable[[], list[Accepted]]


@pytest.fixture
def direct() -> tuple[Intake, Taken]:
    stored = Stored()
    return DirectIntake(stored), lambda: list(stored)  # type: ignore[arg-type]


@pytest.fixture
def shared(redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> tuple[Intake, Taken]:
    def taken() -> list[Accepted]:
        redis_client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        return [entry.read() for entry in EventStream(redis_client, "test").read(100)]

    return RedisIntake(redis_client, multiplexed), taken


@pytest.fixture(params=["direct", "shared"])
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
    def test_what_is_not_known_has_to_be_asked_for(self, place: Intake, taken: Taken) -> None:
        assert place.take(ADA, None, [event()]) == UNKNOWN
        assert taken() == []

    def test_what_sql_says_counts_and_is_known_from_then_on(self, place: Intake, taken: Taken) -> None:
        one, two = event(), event("opened", page="7", count=3)
        assert place.take(ADA, OPEN, [one]) == TAKEN
        assert place.known(ADA) == OPEN
        assert place.take(ADA, None, [two]) == TAKEN
        assert taken() == [Accepted(OPEN.pseudonym, 3, one), Accepted(OPEN.pseudonym, 3, two)]

    def test_nothing_is_taken_after_a_no(self, place: Intake, taken: Taken) -> None:
        assert place.take(ADA, CLOSED_FOR_GOOD, [event()]) == CLOSED
        assert place.known(ADA) == CLOSED_FOR_GOOD
        assert place.take(ADA, None, [event()]) == CLOSED
        assert taken() == []

    def test_people_are_told_apart(self, place: Intake) -> None:
        place.take(ADA, CLOSED_FOR_GOOD, [event()])
        assert place.take(Account(77), None, [event()]) == UNKNOWN
        assert place.known(PASSER) is None

    def test_no_event_at_all_still_tells_whether_there_may_be_one(self, place: Intake, taken: Taken) -> None:
        assert [place.take(ADA, standing, []) for standing in (None, OPEN, None)] == [UNKNOWN, TAKEN, TAKEN]
        assert taken() == []

    def test_what_is_learnt_replaces_nothing(self, place: Intake) -> None:
        place.learn(ADA, CLOSED_FOR_GOOD)
        place.learn(ADA, OPEN)
        assert place.known(ADA) == CLOSED_FOR_GOOD


class TestChanging:
    def test_during_a_change_nothing_is_known_and_nothing_learnt(self, place: Intake, taken: Taken) -> None:
        place.take(ADA, OPEN, [])
        place.begin_change(ADA, 1)
        place.learn(ADA, OPEN)
        assert place.known(ADA) is None
        assert place.take(ADA, None, [event()]) == UNKNOWN
        assert place.take(ADA, OPEN, [event()]) == TAKEN  # under a version that is not stored any more once the change is made
        assert place.known(ADA) is None
        place.settle_change(ADA, CLOSED_FOR_GOOD)
        assert place.known(ADA) == CLOSED_FOR_GOOD
        assert len(taken()) == 1

    def test_the_last_of_several_changes_is_known(self, place: Intake) -> None:
        """Though the first one may be settled last."""
        later = Standing(OPEN.pseudonym, version=5, is_open=True)
        place.begin_change(ADA, 1)
        place.begin_change(ADA, 1)
        place.settle_change(ADA, later)
        assert place.known(ADA) is None
        place.settle_change(ADA, CLOSED_FOR_GOOD)
        assert place.known(ADA) == later

    def test_who_read_before_a_change_teaches_nothing_after_it(self, place: Intake) -> None:
        place.begin_change(ADA, 1)
        place.settle_change(ADA, CLOSED_FOR_GOOD)
        assert place.take(ADA, OPEN, [event()]) == CLOSED
        assert place.known(ADA) == CLOSED_FOR_GOOD

    def test_a_visitors_no_is_known_for_a_moment(self, place: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intake, "ON_THE_WAY", timedelta(milliseconds=50))
        place.begin_change(PASSER, 1)
        place.settle_change(PASSER, Standing(PASSER.pseudonym, 1, is_open=False, fenced_at=FENCED_AT))
        assert place.take(PASSER, None, [event()]) in (CLOSED, UNKNOWN)
        wait_until(lambda: place.take(PASSER, None, []) == UNKNOWN, 5, "the moment to pass")


class TestEmbedded:
    def test_what_failed_is_forgotten(self, direct: tuple[Intake, Taken]) -> None:
        place, _ = direct
        place.begin_change(ADA, 1)
        place.abandon_change(ADA)
        place.take(ADA, OPEN, [])
        assert place.known(ADA) == OPEN

    def test_what_is_known_ages(self, direct: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch) -> None:
        place, _ = direct
        clock = Clock()
        monkeypatch.setattr(intake, "time", clock)
        place.take(ADA, OPEN, [])
        clock.now += intake.KNOWN_SECONDS + 1
        assert place.known(ADA) is None

    def test_of_many_people_the_last_ones_are_known(self, direct: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch) -> None:
        place, _ = direct
        monkeypatch.setattr(intake, "MAX_KNOWN", 2)
        for number in range(3):
            place.take(Account(number), OPEN, [])
        assert [place.known(Account(number)) is not None for number in range(3)] == [False, True, True]


class TestFleet:
    def test_a_change_of_which_nothing_is_heard_any_more_is_asked_for(
        self, shared: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
    ) -> None:
        """Its instance was killed between the database and Redis."""
        place, _ = shared
        place.take(ADA, OPEN, [])
        monkeypatch.setattr(intake, "CHANGING_SECONDS", 0)
        place.begin_change(ADA, 1)
        place.abandon_change(ADA)
        assert place.take(ADA, OPEN, []) == TAKEN
        assert place.known(ADA) is None
        wait_until(lambda: not redis_client.exists("analytics:changing:account:7"), 5, "the announcement to run out")
        assert place.take(ADA, None, []) == UNKNOWN

    def test_as_many_may_wait_as_fit(
        self, shared: tuple[Intake, Taken], monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
    ) -> None:
        place, _ = shared
        monkeypatch.setattr(intake, "MAX_WAITING", 5)
        assert place.take(ADA, OPEN, [event() for _ in range(3)]) == TAKEN
        assert place.take(ADA, None, [event() for _ in range(3)]) == FULL
        assert place.take(ADA, None, [event() for _ in range(2)]) == TAKEN
        assert redis_client.xlen(STREAM) == 5

    def test_what_is_known_does_not_stay_for_ever(self, shared: tuple[Intake, Taken], redis_client: redis.Redis) -> None:
        place, _ = shared
        place.take(ADA, OPEN, [event()])
        place.begin_change(Account(8), 1)
        ages = {key: redis_client.ttl(key) for key in redis_client.keys("analytics:*") if key != STREAM.encode()}
        assert len(ages) == 2
        assert all(0 < age <= intake.KNOWN_SECONDS for age in ages.values())

    def test_it_is_one_round_trip(self, shared: tuple[Intake, Taken], redis_server: RedisServer) -> None:
        place, _ = shared
        place.take(ADA, OPEN, [])
        with redis_server.commands() as commands:
            place.take(ADA, None, [event(), event()])
            place.known(ADA)
        assert [one.text.split()[0] for one in commands if one.client != "lua"] == ["EVALSHA", "GET", "EXISTS"]


class TestOutage:
    @pytest.fixture
    def place(self, redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> Intake:
        redis_client.set(STREAM, "no stream")
        redis_client.set("analytics:standing:account:7", "0 open a1 ")
        return RedisIntake(redis_client, multiplexed)

    def test_what_redis_refuses_is_unavailable(self, place: Intake) -> None:
        with pytest.raises(Unavailable):
            place.take(ADA, None, [event()])


def test_visitors_and_accounts_have_keys_of_their_own() -> None:
    assert len({Account(1).key, Account(11).key, Visitor("v1").key}) == 3


def test_the_way_is_shorter_than_what_is_known() -> None:
    assert timedelta(seconds=intake.KNOWN_SECONDS) > ON_THE_WAY
