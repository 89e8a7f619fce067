from __future__ import annotations

import logging

import pytest

from app.core.errors import Unavailable
from app.core.warnings import OperatorWarning
from app.health.service import FAIL, PASS, PROBE_TIMEOUT_SECONDS, SLOW_SECONDS, UNREADY_AFTER_SECONDS, WARN, Probe
from tests.unit.conftest import Clock, count_of

ADVICE = "check that it runs and that REDIS_URL is right"
NOT_ANSWERED = f"redis has not answered yet: {ADVICE}"
REFUSED = "192.0.2.7:6379 refused the connection"


class Dependency:
    """Returns `answer` after `seconds`, or raises if `is_down`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds = 0.001
        self.answer: str | None = None
        self.is_down = False

    def check(self) -> str | None:
        self.clock.now += self.seconds
        if self.is_down:
            raise Unavailable("no answer") from ConnectionRefusedError(f"{REFUSED}\nand a second line")
        return self.answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("app.health.service.time", clock)
    return clock


@pytest.fixture
def dependency(clock: Clock) -> Dependency:
    return Dependency(clock)


@pytest.fixture
def probe(dependency: Dependency) -> Probe:
    return Probe("redis", dependency.check)


def fail_for(seconds: float, probe: Probe, dependency: Dependency) -> None:
    """Probe every half second, starting now."""
    dependency.is_down = True
    end = dependency.clock.now + seconds
    while dependency.clock.now < end:
        probe.probe()
        dependency.clock.now = min(end, dependency.clock.now + 0.5)


def test_probe_fails_before_the_first_answer(probe: Probe) -> None:
    assert (probe.status, probe.latency) == (FAIL, None)
    assert probe.not_ready_reason() == NOT_ANSWERED


def test_answer_passes(probe: Probe) -> None:
    probe.probe()
    assert (probe.status, probe.not_ready_reason()) == (PASS, None)
    assert probe.latency == pytest.approx(0.001, abs=1e-6)


def test_slow_answer_is_a_warning_not_a_failure(probe: Probe, dependency: Dependency) -> None:
    dependency.seconds = SLOW_SECONDS + 0.01
    for _ in range(100):
        probe.probe()
        assert (probe.status, probe.not_ready_reason()) == (WARN, None)
    dependency.seconds = PROBE_TIMEOUT_SECONDS
    for _ in range(100):
        probe.probe()
        assert (probe.status, probe.not_ready_reason()) == (WARN, None)


def test_reported_error_makes_the_instance_unready_immediately(probe: Probe, dependency: Dependency) -> None:
    probe.probe()
    dependency.answer = "the schema is missing"
    probe.probe()
    assert (probe.status, probe.not_ready_reason()) == (FAIL, "redis: the schema is missing")
    dependency.answer = None
    probe.probe()
    assert (probe.status, probe.not_ready_reason()) == (PASS, None)


def test_failure_makes_the_instance_unready_after_10_seconds(probe: Probe, dependency: Dependency) -> None:
    probe.probe()
    fail_for(0.5, probe, dependency)
    assert (probe.status, probe.not_ready_reason()) == (FAIL, None)
    fail_for(9.5, probe, dependency)
    assert UNREADY_AFTER_SECONDS == probe.failing_for == 10
    assert probe.not_ready_reason() is None
    dependency.clock.now += 0.1
    assert probe.not_ready_reason() == f"redis has failed for 10 s: {ADVICE}"


def test_one_answer_ends_a_failure(probe: Probe, dependency: Dependency) -> None:
    probe.probe()
    fail_for(60, probe, dependency)
    assert probe.not_ready_reason() is not None
    dependency.is_down = False
    probe.probe()
    assert (probe.status, probe.not_ready_reason(), probe.failing_for) == (PASS, None, 0)
    fail_for(9, probe, dependency)
    assert probe.not_ready_reason() is None


def test_dependency_that_never_answered_makes_the_instance_unready_immediately(probe: Probe, dependency: Dependency) -> None:
    fail_for(0.5, probe, dependency)
    assert (probe.status, probe.not_ready_reason()) == (FAIL, NOT_ANSWERED)


def test_hanging_probe_is_reported_while_it_waits(probe: Probe, dependency: Dependency) -> None:
    probe.probe()
    seen: list[tuple[str, str | None]] = []

    def hang() -> None:
        for seconds in (0.1, 1, 4.5, 5):
            dependency.clock.now += seconds
            seen.append((probe.status, probe.not_ready_reason()))
        raise TimeoutError

    probe.check = hang
    probe.probe()
    assert seen == [(PASS, None), (WARN, None), (FAIL, None), (FAIL, f"redis has failed for 11 s: {ADVICE}")]


def test_failure_and_recovery_are_logged_once(probe: Probe, dependency: Dependency, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    probe.probe()
    fail_for(3, probe, dependency)
    dependency.is_down = False
    probe.probe()
    probe.probe()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"redis does not answer: ConnectionRefusedError: {REFUSED}"),
        ("INFO", "redis answers again after 3.0 s"),
    ]


def test_last_answer_is_exported_as_metric(probe: Probe, dependency: Dependency) -> None:
    probe.probe()
    assert count_of("reporadar_dependency_up", dependency="redis") == 1
    assert count_of("reporadar_dependency_latency_seconds", dependency="redis") == pytest.approx(0.001, abs=1e-6)
    fail_for(0.5, probe, dependency)
    assert count_of("reporadar_dependency_up", dependency="redis") == 0


def test_warning_does_not_make_the_instance_unready(dependency: Dependency, caplog: pytest.LogCaptureFixture) -> None:
    something = OperatorWarning("something_wrong", "something")
    found: list[OperatorWarning | None] = [None, something, something, None]
    probe = Probe("redis", dependency.check, find_warning=lambda: found.pop(0))
    statuses = []
    for _ in range(4):
        probe.probe()
        statuses.append((probe.status, probe.reason))
        assert probe.not_ready_reason() is None
    assert statuses == [(PASS, None), (WARN, "something_wrong"), (WARN, "something_wrong"), (PASS, None)]
    assert [record.message for record in caplog.records] == ["redis: something"]


def test_every_warning_and_failure_has_a_reason(probe: Probe, dependency: Dependency) -> None:
    def reason() -> tuple[str, str | None]:
        probe.probe()
        return probe.status, probe.reason

    assert probe.reason == "not_answered_yet"
    assert reason() == (PASS, None)
    dependency.seconds = SLOW_SECONDS + 0.1
    assert reason() == (WARN, "slow")
    dependency.answer = "the schema is missing"
    assert reason() == (FAIL, "unsuitable")
    dependency.is_down = True
    assert reason() == (FAIL, "no_answer")
