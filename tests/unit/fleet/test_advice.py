"""Advice on simulated samples, usually one a second; no test waits."""

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
    CHECK_DATABASE,
    CHECK_LOG,
    METRICS,
    SCALE_REDIS,
    WINDOW_SECONDS,
    Advisor,
    Sample,
)
from harness.scale import count

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
OVERLOADED: dict[str, float] = {
    "cpu_percent": 85,
    "memory_percent": 90,
    "p95_ms": 900,
    "redis_latency_ms": 30,
    "connections": 1500,
}
THRESHOLDS: dict[str, float] = {
    "cpu_percent": 70,
    "memory_percent": 80,
    "p95_ms": 500,
    "redis_latency_ms": 10,
    "connections": 1000,
}
FIVE_MINUTES = 300


Value = float | Callable[[], float | None] | None


class Instance:
    """Feeds an Advisor with samples. `changes` lists each change of its advice: the metric, and whether advice began."""

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
        """A frozen process takes no samples."""
        self.now += seconds

    def advice(self) -> dict[str, advice.Advice]:
        return {each.metric: each for each in self.advisor.advice()}

    def seconds_until(self, metric: str, present: bool, **values: Value) -> float:
        started = self.now
        while (metric in self.advice()) is not present:
            self.observe(1, **values)
            assert self.now - started < 1000, f"{metric} never changed"
        return self.now - started


@pytest.fixture
def instance() -> Instance:
    return Instance()


def test_idle_instance_gets_no_advice(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES)
    assert (instance.advice(), instance.changes) == ({}, [])


def test_without_samples_there_is_no_advice(instance: Instance) -> None:
    assert instance.advisor.advice() == []


@pytest.mark.parametrize("metric", METRICS)
def test_thresholds_are_those_of_the_guide(metric: str) -> None:
    for factor, expected in ((1.0, False), (1.01, True)):
        instance = Instance()
        instance.observe(FIVE_MINUTES, **{metric: THRESHOLDS[metric] * factor})
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
def test_one_high_metric_gives_one_piece_of_advice(instance: Instance, metric: str, action: str) -> None:
    instance.observe(FIVE_MINUTES, **{metric: OVERLOADED[metric]})
    (only,) = instance.advisor.advice()
    assert (only.metric, only.value, only.threshold, only.action) == (metric, OVERLOADED[metric], THRESHOLDS[metric], action)
    assert f"{only.value:,.0f}".replace(",", "") in only.cause
    assert instance.changes == [(metric, True)]


def test_advice_has_the_order_of_the_guides_table(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, **OVERLOADED)
    assert tuple(each.metric for each in instance.advisor.advice()) == METRICS
    assert all(len(each.cause) < 120 and each.cause.endswith(".") for each in instance.advisor.advice())
    assert set(asdict(instance.advisor.advice()[0])) == {"metric", "value", "threshold", "action", "cause"}


# When advice begins and ends


@pytest.mark.parametrize("metric", METRICS)
def test_advice_begins_at_three_quarters_of_a_window_and_ends_a_window_after_the_load(instance: Instance, metric: str) -> None:
    window = WINDOW_SECONDS * (advice.P95_WINDOWS if metric == "p95_ms" else 1)
    assert instance.seconds_until(metric, True, **{metric: OVERLOADED[metric]}) == pytest.approx(window * 0.75, abs=2)
    instance.observe(FIVE_MINUTES, **{metric: OVERLOADED[metric]})
    assert instance.seconds_until(metric, False) == pytest.approx(window * 0.9, abs=2)
    assert instance.changes == [(metric, True), (metric, False)]


@pytest.mark.parametrize("metric", METRICS)
def test_after_idle_time_advice_begins_when_half_of_the_window_is_above(instance: Instance, metric: str) -> None:
    window = WINDOW_SECONDS * (advice.P95_WINDOWS if metric == "p95_ms" else 1)
    instance.observe(FIVE_MINUTES)
    assert instance.seconds_until(metric, True, **{metric: OVERLOADED[metric]}) == pytest.approx(window * 0.5, abs=2)


@pytest.mark.parametrize("metric", METRICS)
def test_spike_of_seconds_gives_no_advice(instance: Instance, metric: str) -> None:
    instance.observe(FIVE_MINUTES)
    for _ in range(3):
        # The same spike raises the 95th percentile of the last minute for a minute.
        instance.observe(20 + (60 if metric == "p95_ms" else 0), **{metric: OVERLOADED[metric] * 100})
        instance.observe(FIVE_MINUTES)
    assert instance.changes == []


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [0.02, 0.08, 0.3])
def test_values_around_the_threshold_begin_and_end_advice_once(instance: Instance, metric: str, spread: float) -> None:
    chance = random.Random(7)  # noqa: S311
    threshold = THRESHOLDS[metric]
    instance.observe(FIVE_MINUTES)
    for _ in range(count(3, 10)):
        instance.observe(60, **{metric: lambda: threshold * chance.uniform(1 - spread, 1 + spread)})
    assert instance.changes in ([], [(metric, True)])
    instance.observe(FIVE_MINUTES, **{metric: threshold * 1.02})
    for _ in range(count(3, 10)):
        instance.observe(60, **{metric: lambda: threshold * chance.uniform(1 - spread, 1 + spread)})
    assert instance.changes == [(metric, True)]
    instance.observe(FIVE_MINUTES)
    assert instance.changes == [(metric, True), (metric, False)]


@pytest.mark.parametrize("period", [2, 10, 40, 80])
def test_oscillating_load_is_one_piece_of_advice(instance: Instance, period: int) -> None:
    instance.observe(FIVE_MINUTES, cpu_percent=100)
    for _ in range(1200 // period):
        instance.observe(period / 2, cpu_percent=20)
        instance.observe(period / 2, cpu_percent=100)
    assert instance.changes == [("cpu_percent", True)]


def test_advice_persists_slightly_below_the_threshold(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, cpu_percent=75)
    instance.observe(1200, cpu_percent=64)
    assert instance.advice()["cpu_percent"].value == 64
    instance.observe(FIVE_MINUTES, cpu_percent=62)
    assert instance.changes == [("cpu_percent", True), ("cpu_percent", False)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("below", [0.0, 0.5])
def test_advice_always_states_a_value_that_justifies_it(instance: Instance, metric: str, below: float) -> None:
    instance.observe(FIVE_MINUTES, **{metric: OVERLOADED[metric]})
    while current := instance.advice().get(metric):
        assert current.value >= THRESHOLDS[metric] * advice.END_SHARE, current
        instance.observe(1, **{metric: THRESHOLDS[metric] * below})


def test_advice_on_responses_ends_with_the_first_minute_without_requests(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, p95_ms=2000)
    assert "p95_ms" in instance.advice()
    instance.observe(1, p95_ms=None)
    assert instance.advice() == {}
    instance.observe(advice.P95_WINDOWS * WINDOW_SECONDS * 0.7, p95_ms=2000)
    assert instance.advice() == {}  # the time without requests does not count


def test_missing_values_give_no_advice(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, p95_ms=None, redis_latency_ms=None, database_latency_ms=None)
    assert instance.advice() == {}
    instance.observe(FIVE_MINUTES, p95_ms=2000)
    assert "p95_ms" in instance.advice()
    instance.observe(FIVE_MINUTES, p95_ms=None)
    assert instance.changes == [("p95_ms", True), ("p95_ms", False)]


def test_window_is_configurable() -> None:
    instance = Instance(window=4)
    assert instance.seconds_until("cpu_percent", True, cpu_percent=90) <= 5
    assert instance.seconds_until("cpu_percent", False) <= 5


# Missing samples


def test_one_sample_after_a_freeze_does_not_cover_the_freeze(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES)
    instance.sleep(FIVE_MINUTES)
    # The first sample measures the freeze itself.
    instance.observe(1, cpu_percent=100, loop_delay_ms=FIVE_MINUTES * 1000, redis_latency_ms=FIVE_MINUTES * 1000, p95_ms=300_000)
    instance.observe(50, p95_ms=300_000)
    instance.observe(FIVE_MINUTES)
    assert instance.changes == []


def test_advice_persists_across_a_gap_until_the_window_is_covered_again(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, cpu_percent=90)
    instance.sleep(FIVE_MINUTES)
    instance.observe(40)
    assert "cpu_percent" in instance.advice()
    instance.observe(10)
    assert instance.changes == [("cpu_percent", True), ("cpu_percent", False)]


def test_window_with_few_samples_gives_no_advice(instance: Instance) -> None:
    for _ in range(30):
        instance.observe(1, cpu_percent=100)
        instance.sleep(30)
    assert instance.changes == []


@pytest.mark.parametrize("every", [0.5, 1.0, 5.0])
def test_advice_does_not_depend_on_the_sample_rate(every: float) -> None:
    instance = Instance(every=every)
    instance.observe(FIVE_MINUTES)
    instance.observe(25, cpu_percent=100)
    assert instance.advice() == {}
    instance.observe(15, cpu_percent=100)
    assert instance.advice()["cpu_percent"].value == 100


def test_samples_with_equal_time_are_harmless(instance: Instance) -> None:
    for _ in range(100):
        instance.advisor.observe(replace(IDLE, at=1000.0, cpu_percent=100))
    assert instance.advice() == {}


# Causes


def responses(instance: Instance, **values: float) -> advice.Advice:
    instance.observe(FIVE_MINUTES, p95_ms=900, **values)
    return instance.advice()["p95_ms"]


def test_slow_responses_with_busy_cpu_need_an_instance(instance: Instance) -> None:
    slow = responses(instance, cpu_percent=96)
    assert (slow.action, slow.cause) == (ADD_INSTANCE, "Responses are slow (p95 900 ms): the CPU is at 96 % of one core.")


def test_slow_responses_with_event_loop_lag_need_an_instance(instance: Instance) -> None:
    slow = responses(instance, loop_delay_ms=120)
    assert (slow.action, slow.cause) == (ADD_INSTANCE, "Responses are slow (p95 900 ms): the event-loop lag is 120 ms.")


def test_slow_responses_with_slow_redis_point_to_redis(instance: Instance) -> None:
    slow = responses(instance, redis_latency_ms=34)
    assert slow.action == SCALE_REDIS
    assert slow.cause == (
        "Responses are slow (p95 900 ms): Redis answers in 34 ms. This instance is not busy (CPU 5 %, event-loop lag 0 ms)."
    )
    assert "dd an instance" not in slow.action + instance.advice()["redis_latency_ms"].action


def test_slow_responses_with_slow_database_point_to_the_database(instance: Instance) -> None:
    slow = responses(instance, database_latency_ms=230)
    assert slow.action == CHECK_DATABASE
    assert "the database answers in 230 ms. This instance is not busy" in slow.cause


def test_slow_responses_with_two_slow_stores_name_both(instance: Instance) -> None:
    slow = responses(instance, redis_latency_ms=34, database_latency_ms=230)
    assert slow.action == f"{SCALE_REDIS}. {CHECK_DATABASE}"
    assert "Redis answers in 34 ms and the database answers in 230 ms" in slow.cause


def test_slow_responses_with_everything_idle_point_to_the_log(instance: Instance) -> None:
    slow = responses(instance)
    assert slow.action == CHECK_LOG
    assert slow.cause == (
        "Responses are slow (p95 900 ms), but neither the instance nor its stores are busy (CPU 5 %, event-loop lag 0 ms)."
    )


@pytest.mark.parametrize("busy", [{"cpu_percent": 96}, {"loop_delay_ms": 60}])
@pytest.mark.parametrize("store", ["redis_latency_ms", "database_latency_ms"])
def test_busy_instance_does_not_blame_a_store(instance: Instance, busy: dict[str, float], store: str) -> None:
    slow = responses(instance, **busy, **{store: 120})
    assert slow.action == ADD_INSTANCE
    assert "answers in" not in slow.cause


def test_slow_redis_seen_by_a_busy_instance_is_not_scaled_first(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, cpu_percent=98, redis_latency_ms=16)
    redis = instance.advice()["redis_latency_ms"]
    assert redis.action == BUSY_FIRST
    assert redis.cause == (
        "Redis answers in 16.0 ms, but part of that may be this instance's own delay: the CPU is at 98 % of one core."
    )


def test_slow_redis_seen_by_an_idle_instance_is_scaled(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, redis_latency_ms=16)
    redis = instance.advice()["redis_latency_ms"]
    assert redis.action == SCALE_REDIS
    assert redis.cause == "Redis answers in 16.0 ms, and this instance is not busy (CPU 5 %, event-loop lag 0 ms)."


def test_past_cause_explains_responses_that_are_still_slow(instance: Instance) -> None:
    """The window of the 95th percentile is longer than that of the CPU."""
    instance.observe(FIVE_MINUTES, p95_ms=900, cpu_percent=96)
    instance.observe(60, p95_ms=900)
    actions = set()
    while "p95_ms" in instance.advice():
        actions.add(instance.advice()["p95_ms"].action)
        instance.observe(1)
    assert actions == {ADD_INSTANCE}
    assert ("cpu_percent", False) in instance.changes


def test_current_cause_has_precedence_over_a_past_one(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, p95_ms=900, cpu_percent=96)
    instance.observe(90, p95_ms=900, redis_latency_ms=34)
    assert {each.metric: each.action for each in instance.advisor.advice()} == {
        "p95_ms": SCALE_REDIS,
        "redis_latency_ms": SCALE_REDIS,
    }


def test_old_cause_explains_nothing(instance: Instance) -> None:
    instance.observe(FIVE_MINUTES, p95_ms=900, redis_latency_ms=34)
    assert responses(instance).action == CHECK_LOG


def test_cause_around_its_threshold_stays_the_cause(instance: Instance) -> None:
    chance = random.Random(7)  # noqa: S311
    instance.observe(FIVE_MINUTES, p95_ms=900, redis_latency_ms=11)
    actions = set()
    for _ in range(20):
        instance.observe(60, p95_ms=900, redis_latency_ms=lambda: chance.uniform(9, 11))
        actions.add(instance.advice()["p95_ms"].action)
    assert actions == {SCALE_REDIS}
