"""Minutes of samples, one a second, in no time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from app.fleet import advice
from app.fleet.advice import (
    ADD_INSTANCE,
    ADD_MEMORY,
    BUSY_FIRST,
    LOOK_AT_DATABASE,
    LOOK_AT_LOG,
    METRICS,
    SCALE_REDIS,
    WINDOW_SECONDS,
    Advisor,
    Sample,
)

IDLE = Sample(
    at=0.0,
    cpu_percent=5.0,
    memory_percent=40.0,
    loop_delay_ms=0.5,
    p95_ms=40.0,
    redis_latency_ms=0.4,
    database_latency_ms=1.0,
    connections=50,
)
TOO_MUCH: dict[str, float] = {"cpu_percent": 85, "memory_percent": 90, "p95_ms": 900, "redis_latency_ms": 30, "connections": 1500}
THRESHOLDS: dict[str, float] = {
    "cpu_percent": 70,
    "memory_percent": 80,
    "p95_ms": 500,
    "redis_latency_ms": 10,
    "connections": 1000,
}
A_FEW_MINUTES = 300


Value = float | Callable[[], float | None] | None


class Instance:
    """What is observed of one, and a list of what changed in its advice: metric, and whether it began."""

    def __init__(self, window: float = WINDOW_SECONDS, every: float = 1.0) -> None:
        self.every = every
        self.advisor = Advisor(window)
        self.now = 1000.0
        self.changes: list[tuple[str, bool]] = []

    def observe(self, seconds: float, **values: Value) -> None:
        before = set(self.advice())
        end = self.now + seconds
        while self.now < end:
            self.now += self.every
            now: dict[str, Any] = {name: value() if callable(value) else value for name, value in values.items()}
            self.advisor.observe(replace(IDLE, at=self.now, **now))
            after = set(self.advice())
            self.changes += [(metric, True) for metric in after - before] + [(metric, False) for metric in before - after]
            before = after

    def sleep(self, seconds: float) -> None:
        """Frozen: nothing is observed."""
        self.now += seconds

    def advice(self) -> dict[str, advice.Advice]:
        return {each.metric: each for each in self.advisor.advice()}

    def seconds_until(self, metric: str, there: bool, **values: Value) -> float:
        started = self.now
        while (metric in self.advice()) is not there:
            self.observe(1, **values)
            assert self.now - started < 1000, f"{metric} never changed"
        return self.now - started


@pytest.fixture
def instance() -> Instance:
    return Instance()


def test_an_idle_instance_needs_nothing(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES)
    assert (instance.advice(), instance.changes) == ({}, [])


def test_nothing_is_said_without_samples(instance: Instance) -> None:
    assert instance.advisor.advice() == []


@pytest.mark.parametrize("metric", METRICS)
def test_the_thresholds_are_the_guides(metric: str) -> None:
    for factor, expected in ((1.0, False), (1.01, True)):
        instance = Instance()
        instance.observe(A_FEW_MINUTES, **{metric: THRESHOLDS[metric] * factor})
        assert (metric in instance.advice()) is expected
        assert all(each.threshold == THRESHOLDS[metric] for each in instance.advice().values())


@pytest.mark.parametrize(
    ("metric", "action"),
    [
        ("cpu_percent", ADD_INSTANCE),
        ("memory_percent", ADD_MEMORY),
        ("redis_latency_ms", SCALE_REDIS),
        ("connections", ADD_INSTANCE),
    ],
)
def test_one_number_that_is_too_high_is_one_piece_of_advice(instance: Instance, metric: str, action: str) -> None:
    instance.observe(A_FEW_MINUTES, **{metric: TOO_MUCH[metric]})
    (only,) = instance.advisor.advice()
    assert (only.metric, only.value, only.threshold, only.action) == (metric, TOO_MUCH[metric], THRESHOLDS[metric], action)
    assert f"{only.value:,.0f}".replace(",", "") in only.cause
    assert instance.changes == [(metric, True)]


def test_all_at_once_come_in_the_order_of_the_guides_table(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, **TOO_MUCH)
    assert tuple(each.metric for each in instance.advisor.advice()) == METRICS
    assert all(len(each.cause) < 120 and each.cause.endswith(".") for each in instance.advisor.advice())
    assert set(asdict(instance.advisor.advice()[0])) == {"metric", "value", "threshold", "action", "cause"}


# When it begins and when it ends


@pytest.mark.parametrize("metric", METRICS)
def test_it_begins_when_the_window_is_full_enough_and_ends_a_window_after_the_trouble(instance: Instance, metric: str) -> None:
    window = WINDOW_SECONDS * (advice.P95_WINDOWS if metric == "p95_ms" else 1)
    assert instance.seconds_until(metric, True, **{metric: TOO_MUCH[metric]}) == pytest.approx(window * 0.75, abs=2)
    instance.observe(A_FEW_MINUTES, **{metric: TOO_MUCH[metric]})
    assert instance.seconds_until(metric, False) == pytest.approx(window * 0.9, abs=2)
    assert instance.changes == [(metric, True), (metric, False)]


@pytest.mark.parametrize("metric", METRICS)
def test_after_quiet_times_it_begins_when_half_of_the_window_is_above(instance: Instance, metric: str) -> None:
    window = WINDOW_SECONDS * (advice.P95_WINDOWS if metric == "p95_ms" else 1)
    instance.observe(A_FEW_MINUTES)
    assert instance.seconds_until(metric, True, **{metric: TOO_MUCH[metric]}) == pytest.approx(window * 0.5, abs=2)


@pytest.mark.parametrize("metric", METRICS)
def test_a_spike_of_seconds_says_nothing(instance: Instance, metric: str) -> None:
    instance.observe(A_FEW_MINUTES)
    for _ in range(3):
        # The 95th percentile of the last minute remembers the same spike for a minute.
        instance.observe(20 + (60 if metric == "p95_ms" else 0), **{metric: TOO_MUCH[metric] * 100})
        instance.observe(A_FEW_MINUTES)
    assert instance.changes == []


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [0.02, 0.08, 0.3])
def test_around_the_threshold_it_begins_once_and_ends_once(instance: Instance, metric: str, spread: float) -> None:
    chance = random.Random(7)  # noqa: S311
    threshold = THRESHOLDS[metric]
    instance.observe(A_FEW_MINUTES)
    for _ in range(10):
        instance.observe(60, **{metric: lambda: threshold * chance.uniform(1 - spread, 1 + spread)})
    assert instance.changes in ([], [(metric, True)])
    instance.observe(A_FEW_MINUTES, **{metric: threshold * 1.02})
    for _ in range(10):
        instance.observe(60, **{metric: lambda: threshold * chance.uniform(1 - spread, 1 + spread)})
    assert instance.changes == [(metric, True)]
    instance.observe(A_FEW_MINUTES)
    assert instance.changes == [(metric, True), (metric, False)]


@pytest.mark.parametrize("period", [2, 10, 40, 80])
def test_load_that_comes_and_goes_is_one_piece_of_advice(instance: Instance, period: int) -> None:
    instance.observe(A_FEW_MINUTES, cpu_percent=100)
    for _ in range(1200 // period):
        instance.observe(period / 2, cpu_percent=20)
        instance.observe(period / 2, cpu_percent=100)
    assert instance.changes == [("cpu_percent", True)]


def test_a_little_below_the_threshold_is_not_the_end(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, cpu_percent=75)
    instance.observe(1200, cpu_percent=64)
    assert instance.advice()["cpu_percent"].value == 64
    instance.observe(A_FEW_MINUTES, cpu_percent=62)
    assert instance.changes == [("cpu_percent", True), ("cpu_percent", False)]


def test_no_requests_are_no_slow_requests(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, p95_ms=None, redis_latency_ms=None, database_latency_ms=None)
    assert instance.advice() == {}
    instance.observe(A_FEW_MINUTES, p95_ms=2000)
    assert "p95_ms" in instance.advice()
    instance.observe(A_FEW_MINUTES, p95_ms=None)
    assert instance.changes == [("p95_ms", True), ("p95_ms", False)]


def test_another_window_may_be_asked_for() -> None:
    instance = Instance(window=4)
    assert instance.seconds_until("cpu_percent", True, cpu_percent=90) <= 5
    assert instance.seconds_until("cpu_percent", False) <= 5


# Samples that are missing


def test_a_frozen_process_does_not_take_one_sample_for_minutes(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES)
    instance.sleep(A_FEW_MINUTES)
    # What it sees first is its own absence.
    instance.observe(
        1, cpu_percent=100, loop_delay_ms=A_FEW_MINUTES * 1000, redis_latency_ms=A_FEW_MINUTES * 1000, p95_ms=300_000
    )
    instance.observe(50, p95_ms=300_000)
    instance.observe(A_FEW_MINUTES)
    assert instance.changes == []


def test_what_stood_before_a_gap_stands_until_the_opposite_is_known(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, cpu_percent=90)
    instance.sleep(A_FEW_MINUTES)
    instance.observe(40)
    assert "cpu_percent" in instance.advice()
    instance.observe(10)
    assert instance.changes == [("cpu_percent", True), ("cpu_percent", False)]


def test_a_window_that_is_mostly_gap_says_nothing(instance: Instance) -> None:
    for _ in range(30):
        instance.observe(1, cpu_percent=100)
        instance.sleep(30)
    assert instance.changes == []


@pytest.mark.parametrize("every", [0.2, 1.0, 5.0])
def test_the_rate_of_samples_does_not_matter(every: float) -> None:
    instance = Instance(every=every)
    instance.observe(A_FEW_MINUTES)
    instance.observe(25, cpu_percent=100)
    assert instance.advice() == {}
    instance.observe(15, cpu_percent=100)
    assert instance.advice()["cpu_percent"].value == 100


def test_two_samples_of_one_moment_do_no_harm(instance: Instance) -> None:
    for _ in range(100):
        instance.advisor.observe(replace(IDLE, at=1000.0, cpu_percent=100))
    assert instance.advice() == {}


# Causes


def responses(instance: Instance, **values: float) -> advice.Advice:
    instance.observe(A_FEW_MINUTES, p95_ms=900, **values)
    return instance.advice()["p95_ms"]


def test_slow_with_a_busy_processor_wants_an_instance(instance: Instance) -> None:
    slow = responses(instance, cpu_percent=96)
    assert (slow.action, slow.cause) == (ADD_INSTANCE, "Slow responses (p95 900 ms): CPU 96 % of one core.")


def test_slow_with_a_late_event_loop_wants_an_instance(instance: Instance) -> None:
    slow = responses(instance, loop_delay_ms=120)
    assert (slow.action, slow.cause) == (ADD_INSTANCE, "Slow responses (p95 900 ms): the event loop is 120 ms late.")


def test_slow_with_a_slow_redis_is_a_matter_of_redis(instance: Instance) -> None:
    slow = responses(instance, redis_latency_ms=34)
    assert slow.action == SCALE_REDIS
    assert slow.cause == (
        "Slow responses (p95 900 ms): Redis answers in 34 ms. This instance is not busy (CPU 5 %, event loop 0 ms late)."
    )
    assert "dd an instance" not in slow.action + instance.advice()["redis_latency_ms"].action


def test_slow_with_a_slow_database_is_a_matter_of_the_database(instance: Instance) -> None:
    slow = responses(instance, database_latency_ms=230)
    assert slow.action == LOOK_AT_DATABASE
    assert "the database answers in 230 ms. This instance is not busy" in slow.cause


def test_slow_with_two_slow_stores_names_both(instance: Instance) -> None:
    slow = responses(instance, redis_latency_ms=34, database_latency_ms=230)
    assert slow.action == f"{SCALE_REDIS}. {LOOK_AT_DATABASE}"
    assert "Redis answers in 34 ms and the database answers in 230 ms" in slow.cause


def test_slow_with_everything_idle_is_a_matter_of_the_requests(instance: Instance) -> None:
    slow = responses(instance)
    assert slow.action == LOOK_AT_LOG
    assert slow.cause == (
        "Slow responses (p95 900 ms), and nothing is busy (CPU 5 %, event loop 0 ms late): the requests themselves wait."
    )


@pytest.mark.parametrize("busy", [{"cpu_percent": 96}, {"loop_delay_ms": 60}])
@pytest.mark.parametrize("store", ["redis_latency_ms", "database_latency_ms"])
def test_what_a_busy_instance_measures_is_no_proof_against_a_store(
    instance: Instance, busy: dict[str, float], store: str
) -> None:
    slow = responses(instance, **busy, **{store: 120})
    assert slow.action == ADD_INSTANCE
    assert "answers in" not in slow.cause


def test_redis_that_is_slow_to_a_busy_instance_is_not_scaled_first(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, cpu_percent=98, redis_latency_ms=16)
    redis = instance.advice()["redis_latency_ms"]
    assert redis.action == BUSY_FIRST
    assert redis.cause == "Redis answers in 16.0 ms, but that may be this instance being late: CPU 98 % of one core."


def test_redis_that_is_slow_to_an_idle_instance_is_slow(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, redis_latency_ms=16)
    redis = instance.advice()["redis_latency_ms"]
    assert redis.action == SCALE_REDIS
    assert redis.cause == "Redis answers in 16.0 ms, and this instance is not busy (CPU 5 %, event loop 0 ms late)."


def test_a_cause_that_is_over_still_explains_what_it_left_behind(instance: Instance) -> None:
    """The percentile and its windows look back further than the window of the processor."""
    instance.observe(A_FEW_MINUTES, p95_ms=900, cpu_percent=96)
    instance.observe(60, p95_ms=900)
    actions = set()
    while "p95_ms" in instance.advice():
        actions.add(instance.advice()["p95_ms"].action)
        instance.observe(1)
    assert actions == {ADD_INSTANCE}
    assert ("cpu_percent", False) in instance.changes


def test_what_is_the_matter_now_comes_before_what_was(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, p95_ms=900, cpu_percent=96)
    instance.observe(90, p95_ms=900, redis_latency_ms=34)
    assert {each.metric: each.action for each in instance.advisor.advice()} == {
        "p95_ms": SCALE_REDIS,
        "redis_latency_ms": SCALE_REDIS,
    }


def test_a_cause_that_is_long_over_explains_nothing(instance: Instance) -> None:
    instance.observe(A_FEW_MINUTES, p95_ms=900, redis_latency_ms=34)
    assert responses(instance).action == LOOK_AT_LOG


def test_a_cause_around_its_threshold_stays_the_cause(instance: Instance) -> None:
    chance = random.Random(7)  # noqa: S311
    instance.observe(A_FEW_MINUTES, p95_ms=900, redis_latency_ms=11)
    actions = set()
    for _ in range(20):
        instance.observe(60, p95_ms=900, redis_latency_ms=lambda: chance.uniform(9, 11))
        actions.add(instance.advice()["p95_ms"].action)
    assert actions == {SCALE_REDIS}
