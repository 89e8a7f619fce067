"""The fleet as its registry shows it: who lives, what does not fit together, what the last stops waited for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.operations.doctor.findings import Finding, fail, ok, warn

LAST_STOPS = 5
STARTING_SECONDS = 30  # by then an instance has started, or it can't

Report = dict[str, Any]  # what GET /api/fleet answers

_ADVICE_OF_PHASES = {
    "delay": "That is SHUTDOWN_DELAY: no longer than the balancer needs to turn away",
    "sockets": "Raise DRAIN_RATE, or SHUTDOWN_TIMEOUT",
    "accept queue": "Clients went on connecting: let the balancer look at /health/ready more often than SHUTDOWN_DELAY",
    "requests": "Long requests: the lines with the most ms in its log, or raise SHUTDOWN_TIMEOUT",
    "close": "Redis or the database did not let go: see what was found about them",
}


def live_ids(report: Report) -> list[str]:
    return [instance["instance_id"] for instance in report.get("instances", [])]


def examine(report: Report) -> Iterator[Finding]:
    instances = report.get("instances", [])
    if not instances:
        yield warn("fleet: no instance lives", "Start one: gunicorn --config gunicorn.conf.py wsgi:app")
    for instance in instances:
        yield _instance(instance)
    for entry in report.get("disagreements", []):
        yield fail(f"fleet: {entry['message']}", f"Compare the settings of {', '.join(entry['instance_ids']) or 'all instances'}")
    for entry in report.get("advice", []):
        yield _advice(entry)
    for entry in report.get("stops", [])[:LAST_STOPS]:
        yield _stop(entry)


def _instance(instance: dict[str, Any]) -> Finding:
    name, status = instance["instance_id"], instance.get("status", "ready")
    obstacles = "; ".join(instance.get("obstacles") or [])
    text = f"fleet: {name} is {status}, up for {instance['uptime']:.0f} s, version {instance['version']}"
    if status == "ready" and not obstacles:
        return ok(text)
    if status == "draining":
        return warn(text, "It is stopping, or was drained on the fleet page: bring it back there")
    if instance["uptime"] < STARTING_SECONDS:
        return warn(f"{text}: {obstacles}", "It has just started: ask again in a moment")
    return fail(f"{text}: {obstacles}", "See that reason under `/health/ready` answers 503 in docs/troubleshooting.md")


def _advice(entry: dict[str, Any]) -> Finding:
    who = f"{entry['instance_id']}: " if entry.get("instance_id") else ""
    text = f"fleet: {who}{entry['metric']} is {entry['value']:g}, above {entry['threshold']:g}: {entry['cause']}"
    return warn(text, entry["action"])


def _stop(entry: dict[str, Any]) -> Finding:
    """The longest phase is what it waited for."""
    name, kind, at = entry["instance_id"], entry["kind"], entry["at"]
    if kind == "crashed":
        return warn(
            f"stops: {name} crashed, noticed at {at}",
            "It said nothing at its end: look for the kernel's 'Out of memory', a SIGKILL by the platform, or a traceback",
        )
    phases = sorted(entry["phases"], key=lambda phase: phase["seconds"], reverse=True)
    waited = f"; most of it for {phases[0]['name']}, {phases[0]['seconds']:.2f} s" if phases else ""
    text = f"stops: {name} stopped {kind} in {entry['seconds'] or 0:.2f} s at {at}{waited}"
    if kind == "clean":
        return ok(text)
    return warn(text, _ADVICE_OF_PHASES.get(phases[0]["name"] if phases else "", "Look for `stopped: forced` in its log"))
