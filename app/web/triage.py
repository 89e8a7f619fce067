"""Sorts and marks instances for the fleet page: a verdict, problems before healthy ones, values above their threshold."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.fleet import advice
from app.fleet.store import SILENT_SECONDS
from app.fleet.worker_store import MISSING
from app.server.lifecycle import DRAINING, READY
from app.server.stop_report import CRASHED
from app.web import formatting

About = dict[str, Any]  # one of `instances` in /api/fleet

FAILING = "not ready"  # after having been ready
RECENT_CRASH_SECONDS = 600.0  # a crash affects the verdict for this long

# label, field, unit, threshold, explanation
MEASURES = (
    ("CPU", "cpu_percent", " %", advice.CPU_PERCENT, "Percent of the one core that an instance can use"),
    (
        "Memory",
        "memory_percent",
        " %",
        advice.MEMORY_PERCENT,
        "Percent of the container’s memory limit, or else of the machine’s memory",
    ),
    ("p95", "p95_ms", " ms", advice.P95_MS, "95 % of the responses of the last minute began within this time"),
    ("Event loop", "loop_delay_ms", " ms", advice.LOOP_DELAY_MS, "Event-loop lag"),
    ("Redis", "redis_latency_ms", " ms", advice.REDIS_LATENCY_MS, "Latency of Redis"),
    ("Database", "database_latency_ms", " ms", advice.DATABASE_LATENCY_MS, "Latency of the database"),
    ("Connections", "connections", "", advice.CONNECTIONS, "Open client connections, including sockets"),
    ("Sockets", "sockets", "", math.inf, "Signed-in Socket.IO clients"),
)


@dataclass(frozen=True)
class Verdict:
    box: str  # CSS class: notice, warning or alert
    headline: str
    reasons: list[str]


@dataclass(frozen=True)
class Reading:
    label: str
    text: str
    limit: str  # the threshold if the value exceeds it, else empty
    explanation: str


def state(about: About) -> str:
    """Return starting, ready, draining or FAILING."""
    if about["set_aside"]:
        return DRAINING
    return FAILING if about["status"] == READY and about["obstacles"] else str(about["status"])


def reason(about: About) -> str:
    """Return why the instance is not ready."""
    if about["set_aside"] and about["status"] != DRAINING:
        return "waiting for it to start draining"
    if about["status"] == DRAINING and not about["set_aside"]:
        return "it is stopping" if about["obstacles"] == [DRAINING] else "; ".join(about["obstacles"])
    return "; ".join(about["obstacles"]) or "about to become ready"


def worst_first(instances: list[About]) -> list[About]:
    order = [FAILING, "starting", DRAINING, READY]
    return sorted(instances, key=lambda about: order.index(state(about)))


def is_last_ready(instances: list[About], instance_id: str) -> bool:
    return {about["instance_id"] for about in instances if state(about) == READY} == {instance_id}


def judge(overview: dict[str, Any], *, is_worker_needed: bool = False) -> Verdict:
    """`is_worker_needed`: no worker runs, and work waits for one."""
    instances = worst_first(overview["instances"])
    states = [state(about) for about in instances]
    absent = [about for about in instances if state(about) != READY]
    crashes = _recent_crashes(overview["stops"])
    missing = [
        f"{worker['instance_id']}: no heartbeat for more than {SILENT_SECONDS} s"
        for worker in overview["workers"]
        if worker["status"] == MISSING
    ]
    if overview["disagreements"] or FAILING in states or READY not in states or is_worker_needed:
        box = "alert"
    else:
        box = "warning" if absent or missing or overview["advice"] or crashes else "notice"
    headline = _headline(instances, absent)
    if is_worker_needed:
        headline = f"No worker runs, and work is waiting; {headline[:1].lower()}{headline[1:]}"
    return Verdict(box, headline, [f"{about['instance_id']}: {reason(about)}" for about in absent] + missing + crashes)


def _headline(instances: list[About], absent: list[About]) -> str:
    ready, total = len(instances) - len(absent), len(instances)
    verb = "is" if ready == 1 else "are"
    if not ready:
        return "No instance is ready"
    if not absent:
        return f"{ready} of {formatting.quantity(total, 'instance')} {verb} ready"
    subject = f"{absent[0]['instance_id']} is" if len(absent) == 1 else f"{len(absent)} instances are"
    return f"{subject} not ready; {ready} of {total} {verb}"


def _recent_crashes(stops: list[dict[str, Any]]) -> list[str]:
    now = datetime.now(UTC)
    return [
        f"{stop['instance_id']} crashed {formatting.ago(stop['at'])}"
        for stop in stops
        if stop["kind"] == CRASHED and (now - datetime.fromisoformat(stop["at"])).total_seconds() < RECENT_CRASH_SECONDS
    ]


def readings(about: About) -> list[Reading]:
    return [
        Reading(label, _amount(about[field], unit), _limit(about[field], unit, threshold), explanation)
        for label, field, unit, threshold, explanation in MEASURES
    ]


def _limit(value: float | None, unit: str, threshold: float) -> str:
    return _amount(threshold, unit) if value is not None and value > threshold else ""


def _amount(value: float | None, unit: str) -> str:
    """Return text like `12 %` or `0.4 ms`. Only milliseconds below 10 have a decimal place."""
    if value is None:
        return "–"
    return f"{value:,.1f}{unit}" if unit == " ms" and 0 < value < 10 else f"{value:,.0f}{unit}"


def longest_phase(stop: dict[str, Any]) -> dict[str, Any] | None:
    """Return the longest phase of a stop, or None if it has no phases."""
    return max(stop["phases"], key=lambda phase: phase["seconds"], default=None)
