"""What an operator reads first of a fleet: a verdict, the worst before the rest, and which numbers are too high right now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.fleet import advice
from app.server.lifecycle import DRAINING, READY
from app.server.stop_report import CRASHED
from app.web import formatting

About = dict[str, Any]  # what an instance tells of itself, as /api/fleet has it

FAILING = "not ready"  # though it had been
NEWS_SECONDS = 600.0  # so long a crash is part of the verdict

# Label, field, unit, threshold, what it is.
MEASURES = (
    ("CPU", "cpu_percent", " %", advice.CPU_PERCENT, "Of the one core that an instance can use"),
    ("Memory", "memory_percent", " %", advice.MEMORY_PERCENT, "Of the container’s limit; without one, of the machine’s"),
    ("p95", "p95_ms", " ms", advice.P95_MS, "Of the last minute’s responses, 95 % began within this"),
    ("Event loop", "loop_delay_ms", " ms", advice.LOOP_DELAY_MS, "How late the event loop is"),
    ("Redis", "redis_latency_ms", " ms", advice.REDIS_LATENCY_MS, "Until Redis answers"),
    ("Database", "database_latency_ms", " ms", advice.DATABASE_LATENCY_MS, "Until the database answers"),
    ("Connections", "connections", "", advice.CONNECTIONS, "Open connections of clients, sockets included"),
    ("Sockets", "sockets", "", math.inf, "Signed-in Socket.IO clients"),
)


@dataclass(frozen=True)
class Verdict:
    box: str  # as the stylesheet names it: notice, warning or alert
    headline: str
    reasons: list[str]


@dataclass(frozen=True)
class Reading:
    label: str
    text: str
    limit: str  # that it exceeds; empty if it does not
    explanation: str


def state(about: About) -> str:
    """In a word: starting, ready, draining, or FAILING."""
    if about["set_aside"]:
        return DRAINING
    return FAILING if about["status"] == READY and about["obstacles"] else str(about["status"])


def reason(about: About) -> str:
    """Why it is not ready."""
    if about["set_aside"] and about["status"] != DRAINING:
        return "told to drain"
    if about["status"] == DRAINING and not about["set_aside"]:
        return "it is being stopped" if about["obstacles"] == [DRAINING] else "; ".join(about["obstacles"])
    return "; ".join(about["obstacles"]) or "about to be ready"


def worst_first(instances: list[About]) -> list[About]:
    order = [FAILING, "starting", DRAINING, READY]
    return sorted(instances, key=lambda about: order.index(state(about)))


def is_last_ready(instances: list[About], instance_id: str) -> bool:
    return {about["instance_id"] for about in instances if state(about) == READY} == {instance_id}


def judge(overview: dict[str, Any]) -> Verdict:
    instances = worst_first(overview["instances"])
    states = [state(about) for about in instances]
    absent = [about for about in instances if state(about) != READY]
    crashes = _fresh_crashes(overview["stops"])
    if overview["disagreements"] or FAILING in states or READY not in states:
        box = "alert"
    else:
        box = "warning" if absent or overview["advice"] or crashes else "notice"
    return Verdict(box, _headline(instances, absent), [f"{about['instance_id']}: {reason(about)}" for about in absent] + crashes)


def _headline(instances: list[About], absent: list[About]) -> str:
    there, everybody = len(instances) - len(absent), len(instances)
    verb = "is" if there == 1 else "are"
    if not there:
        return "No instance is ready"
    if not absent:
        return f"{there} of {formatting.quantity(everybody, 'instance')} {verb} ready"
    who = f"{absent[0]['instance_id']} is" if len(absent) == 1 else f"{len(absent)} instances are"
    return f"{who} not ready; {there} of {everybody} {verb}"


def _fresh_crashes(stops: list[dict[str, Any]]) -> list[str]:
    now = datetime.now(UTC)
    return [
        f"{stop['instance_id']} crashed {formatting.ago(stop['at'])}"
        for stop in stops
        if stop["kind"] == CRASHED and (now - datetime.fromisoformat(stop["at"])).total_seconds() < NEWS_SECONDS
    ]


def readings(about: About) -> list[Reading]:
    return [
        Reading(label, _amount(about[field], unit), _limit(about[field], unit, threshold), explanation)
        for label, field, unit, threshold, explanation in MEASURES
    ]


def _limit(value: float | None, unit: str, threshold: float) -> str:
    return _amount(threshold, unit) if value is not None and value > threshold else ""


def _amount(value: float | None, unit: str) -> str:
    """`12 %`, `0.4 ms`; milliseconds have a decimal place where it says something."""
    if value is None:
        return "–"
    return f"{value:,.1f}{unit}" if unit == " ms" and 0 < value < 10 else f"{value:,.0f}{unit}"


def longest(stop: dict[str, Any]) -> dict[str, Any] | None:
    """The phase that a stop waited for most."""
    return max(stop["phases"], key=lambda phase: phase["seconds"], default=None)
