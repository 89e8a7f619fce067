"""The fleet as its registry shows it: live instances, configuration mismatches, advice and the last stops."""

from collections.abc import Iterator
from typing import Any

from app.operations.doctor.findings import Finding, fail, ok, warn

LAST_STOPS = 5
STARTING_SECONDS = 30  # an instance that is not ready by then has a problem

Report = dict[str, Any]  # the response of GET /api/fleet

_ADVICE_BY_PHASE = {
    "delay": "This is SHUTDOWN_DELAY: set it no longer than the balancer needs to stop sending requests",
    "sockets": "Raise DRAIN_RATE or SHUTDOWN_TIMEOUT",
    "accept queue": "Clients kept connecting: let the balancer check /health/ready more often than SHUTDOWN_DELAY",
    "requests": "Some requests take long: find them in its log by their ms, or raise SHUTDOWN_TIMEOUT",
    "close": "Redis or the database did not close in time: see the findings about them",
}


def live_ids(report: Report) -> list[str]:
    return [instance["instance_id"] for instance in report.get("instances", [])]


def examine(report: Report) -> Iterator[Finding]:
    instances = report.get("instances", [])
    if not instances:
        yield warn(
            "fleet: no instance is registered in Redis",
            "Start one: gunicorn --config gunicorn.conf.py wsgi:app. If one runs, read its last log lines",
        )
    for instance in instances:
        yield _instance(instance)
    for entry in report.get("disagreements", []):
        ids = ", ".join(entry["instance_ids"]) or "all instances"
        yield fail(f"fleet: {ids}: {entry['message']}", f"Compare the settings of {ids} with those of the others")
    for entry in report.get("advice", []):
        yield _advice(entry)
    for entry in report.get("stops", [])[:LAST_STOPS]:
        yield _stop(entry)


def _instance(instance: dict[str, Any]) -> Finding:
    name, status = instance["instance_id"], instance.get("status", "ready")
    reasons = "; ".join(instance.get("obstacles") or [])
    text = f"fleet: {name} is {status}, up for {instance['uptime']:.0f} s, version {instance['version']}"
    if status == "ready" and not reasons:
        return ok(text)
    if status == "draining":
        return warn(text, "It is stopping, or an administrator drained it: end the drain on the fleet page")
    if instance["uptime"] < STARTING_SECONDS:
        return warn(f"{text}: {reasons}", "It has just started: run the doctor again in a moment")
    return fail(f"{text}: {reasons}", "Find the reason under `/health/ready` answers 503 in docs/troubleshooting.md")


def _advice(entry: dict[str, Any]) -> Finding:
    prefix = f"{entry['instance_id']}: " if entry.get("instance_id") else ""
    text = f"fleet: {prefix}{entry['metric']} is {entry['value']:g}, above {entry['threshold']:g}: {entry['cause']}"
    return warn(text, entry["action"])


def _stop(entry: dict[str, Any]) -> Finding:
    name, kind, at = entry["instance_id"], entry["kind"], entry["at"]
    if kind == "crashed":
        return warn(
            f"stops: {name} crashed, detected at {at}",
            "Look for 'Out of memory' in the kernel log, a SIGKILL by the platform, or a traceback in its log."
            " If it still runs, it could not send heartbeats to Redis",
        )
    phases = sorted(entry["phases"], key=lambda phase: phase["seconds"], reverse=True)
    longest = f"; the longest phase was {phases[0]['name']}, {phases[0]['seconds']:.2f} s" if phases else ""
    text = f"stops: the stop of {name} was {kind} and took {entry['seconds'] or 0:.2f} s at {at}{longest}"
    if kind == "clean":
        return ok(text)
    return warn(text, _ADVICE_BY_PHASE.get(phases[0]["name"] if phases else "", "Find `stopped: forced` in its log"))
