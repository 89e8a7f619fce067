"""Order and verdict of the fleet page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.core.timestamps import iso
from app.web import triage

CALM = {
    "cpu_percent": 12.4,
    "memory_percent": 40.0,
    "p95_ms": None,
    "loop_delay_ms": 0.44,
    "redis_latency_ms": 0.0,
    "database_latency_ms": 10.2,
    "connections": 1000,
    "sockets": 5000,
}
RIGHT = {"p95": "–", "CPU": "12 %", "Event loop": "0.4 ms", "Redis": "0 ms", "Database": "10 ms", "Connections": "1,000"}


def about(name: str, status: str = "ready", *obstacles: str, set_aside: bool = False) -> dict[str, Any]:
    return {"instance_id": name, "status": status, "obstacles": list(obstacles), "set_aside": set_aside, **CALM}


ONE = about("one")
FAILING = about("two", "ready", "redis has failed for 14 s", "draining soon")
STARTING = about("three", "starting")
STOPPING = about("four", "draining", "draining")
DRAINED = about("five", "draining", "drained by an administrator", set_aside=True)
NOTIFYING = about("six", set_aside=True)  # drained, but not notified yet


def crash(minutes: int) -> dict[str, Any]:
    return {"instance_id": "seven", "kind": "crashed", "at": iso(datetime.now(UTC) - timedelta(minutes=minutes))}


def overview(*instances: dict[str, Any], **rest: list[Any]) -> dict[str, Any]:
    return {"instances": list(instances), "workers": [], "advice": [], "disagreements": [], "stops": [], **rest}


@pytest.mark.parametrize(
    ("instances", "box", "headline", "reasons"),
    [
        ([], "alert", "No instance is ready", []),
        ([ONE], "notice", "1 of 1 instance is ready", []),
        ([ONE, about("two")], "notice", "2 of 2 instances are ready", []),
        ([ONE, FAILING], "alert", "two is not ready; 1 of 2 is", ["two: redis has failed for 14 s; draining soon"]),
        ([ONE, STARTING], "warning", "three is not ready; 1 of 2 is", ["three: about to become ready"]),
        ([ONE, STOPPING], "warning", "four is not ready; 1 of 2 is", ["four: it is stopping"]),
        ([ONE, DRAINED], "warning", "five is not ready; 1 of 2 is", ["five: drained by an administrator"]),
        ([ONE, NOTIFYING], "warning", "six is not ready; 1 of 2 is", ["six: waiting for it to start draining"]),
        ([NOTIFYING], "alert", "No instance is ready", ["six: waiting for it to start draining"]),
        (
            [ONE, DRAINED, FAILING],
            "alert",
            "2 instances are not ready; 1 of 3 is",
            ["two: redis has failed for 14 s; draining soon", "five: drained by an administrator"],
        ),
    ],
)
def test_verdict_depends_on_the_instances(instances: list[dict[str, Any]], box: str, headline: str, reasons: list[str]) -> None:
    assert triage.judge(overview(*instances)) == triage.Verdict(box, headline, reasons)


def test_crash_affects_the_verdict_for_ten_minutes() -> None:
    assert triage.judge(overview(ONE, stops=[crash(9), crash(11)])) == triage.Verdict(
        "warning", "1 of 1 instance is ready", ["seven crashed 9 minutes ago"]
    )


@pytest.mark.parametrize(("what", "box"), [("advice", "warning"), ("disagreements", "alert")])
def test_advice_and_mismatches_affect_the_verdict(what: str, box: str) -> None:
    assert triage.judge(overview(ONE, **{what: [{}]})).box == box


def test_work_without_a_worker_is_in_the_headline() -> None:
    assert triage.judge(overview(ONE), is_worker_needed=True) == triage.Verdict(
        "alert", "No worker runs, and work is waiting; 1 of 1 instance is ready", []
    )


def test_missing_worker_affects_the_verdict() -> None:
    workers = [{"instance_id": "one-worker", "status": "missing"}, {"instance_id": "two-worker", "status": "stopping"}]
    assert triage.judge(overview(ONE, workers=workers)) == triage.Verdict(
        "warning", "1 of 1 instance is ready", ["one-worker: no heartbeat for more than 3 s"]
    )


def test_worst_instance_comes_first() -> None:
    instances = [ONE, DRAINED, STARTING, FAILING]
    assert triage.worst_first(instances) == [FAILING, STARTING, DRAINED, ONE]


def test_last_ready_instance_is_recognised() -> None:
    assert triage.is_last_ready([ONE, NOTIFYING, FAILING], "one")
    assert not triage.is_last_ready([ONE, about("two")], "one")
    assert not triage.is_last_ready([ONE, NOTIFYING], "six")


def test_readings_are_formatted() -> None:
    readings = {reading.label: reading for reading in triage.readings(ONE)}
    assert {label: readings[label].text for label in RIGHT} == RIGHT
    assert [reading.label for reading in readings.values() if reading.limit] == []


def test_value_above_its_threshold_is_marked() -> None:
    high = {**ONE, "cpu_percent": 70.1, "p95_ms": 501.0, "connections": 1001}
    marked = [(reading.label, reading.limit) for reading in triage.readings(high) if reading.limit]
    assert marked == [("CPU", "70 %"), ("p95", "500 ms"), ("Connections", "1,000")]


def test_longest_phase_of_a_stop() -> None:
    phases = [{"name": "delay", "seconds": 1.0}, {"name": "sockets", "seconds": 2.0}]
    assert triage.longest_phase({"phases": phases}) == phases[1]
    assert triage.longest_phase({"phases": []}) is None
