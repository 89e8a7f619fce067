"""Checks of each stop: whether readiness failed first, how fast sockets were closed and how long the stop took."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from app.operations.rehearsal.checks import CheckResult, Status, judge_time
from app.operations.rehearsal.measurements import DrainSettings, Measurements, ObservedStop, ReportedStop

RATE_TOLERANCE = 1.5  # times DRAIN_RATE
RATE_WINDOW_SECONDS, RATE_COUNT = 0.4, 10  # the window is longer where DRAIN_RATE closes fewer than RATE_COUNT sockets in it
JITTER_SECONDS = 0.02  # error of the interval between two observed closings
MIN_OBSERVABLE_SECONDS = 0.3  # readiness is polled about twenty times a second, across all instances
STOP_MARGIN_SECONDS = 5.0  # beside SHUTDOWN_DELAY and the sockets: requests in flight, closing, a busy machine
GIVE_UP_SECONDS = 2.5  # before SHUTDOWN_TIMEOUT, an instance aborts a stop that has not finished


def stops(measured: Measurements) -> Iterator[CheckResult]:
    for stop in measured.stops:
        yield _readiness(stop, measured.settings)
        yield _drain_rate(stop, measured.settings)
        yield _duration(stop, measured.settings)
    if measured.reported_stops is None:
        text, meaning = "unknown: /api/fleet did not list them", "a crash or a forced stop may have gone unnoticed"
        yield CheckResult("recorded stops", judge_time([measured.worst_load]), text, meaning)
    elif measured.reported_stops:
        yield _recorded_stops(measured, measured.reported_stops)


def _readiness(stop: ObservedStop, settings: DrainSettings) -> CheckResult:
    """Readiness must fail before the first socket is closed, or without SHUTDOWN_DELAY before the last."""
    if settings.shutdown_delay >= 1:
        due = min(stop.closings, default=stop.exited_at)
    else:
        due = max(stop.closings, default=stop.signalled_at)
    if due - stop.signalled_at < MIN_OBSERVABLE_SECONDS:
        return CheckResult(f"{stop.instance} unready", Status.GREEN, "not checked: the stop was too short to observe it", "")
    turned = "never returned 503"
    if stop.unready_at is not None:
        turned = f"returned 503 {stop.unready_at - stop.signalled_at:.2f} s after SIGTERM"
    closed = "the instance had no sockets"
    if stop.closings:
        closed = f"the first socket was closed after {min(stop.closings) - stop.signalled_at:.2f} s"
    return CheckResult(
        f"{stop.instance} unready",
        judge_time([] if stop.unready_at is not None and stop.unready_at <= due else [stop.load]),
        f"/health/ready {turned}; {closed}",
        "the load balancer could not know that the instance was stopping: /health/ready must return 503 from SIGTERM on",
    )


def _drain_rate(stop: ObservedStop, settings: DrainSettings) -> CheckResult:
    rate = _allowed_rate(stop, settings)
    window = max(RATE_WINDOW_SECONDS, RATE_COUNT / rate)
    limit = RATE_TOLERANCE * rate * (window + JITTER_SECONDS + stop.load.stall)
    most = peak(stop.closings, window)
    return CheckResult(
        f"{stop.instance} drain",
        judge_time([stop.load] if most > limit else []),
        f"{len(stop.closings)} sockets closed, up to {most} within {window:g} s (at most {limit:.0f}; DRAIN_RATE {rate:.0f})",
        "sockets were closed too fast: all these clients reconnect to the remaining instances at once",
    )


def _allowed_rate(stop: ObservedStop, settings: DrainSettings) -> float:
    """Return DRAIN_RATE, or a higher rate where the timeout leaves too little time for it."""
    return max(settings.drain_rate, 2 * len(stop.closings) / max(1.0, settings.shutdown_timeout - settings.shutdown_delay))


def _duration(stop: ObservedStop, settings: DrainSettings) -> CheckResult:
    seconds = stop.exited_at - stop.signalled_at
    least = settings.shutdown_delay + len(stop.closings) / _allowed_rate(stop, settings)
    limit = min(least + STOP_MARGIN_SECONDS, max(settings.shutdown_timeout - GIVE_UP_SECONDS, least + 1))
    return CheckResult(
        f"{stop.instance} stop",
        judge_time([stop.load] if seconds > limit else []),
        f"exited after {seconds:.1f} s (at most {limit:.1f}; SHUTDOWN_TIMEOUT {settings.shutdown_timeout:g}); "
        f"ready again {stop.ready_at - stop.exited_at:.1f} s later",
        "the stop was delayed until the timeout aborted it: its log line `stopped:` names the slow phase",
    )


def _recorded_stops(measured: Measurements, stops: Sequence[ReportedStop]) -> CheckResult:
    killed = {phase.killed for phase in measured.phases}
    bad = [stop for stop in stops if stop.kind != "clean" and not (stop.kind == "crashed" and is_named(stop.instance, killed))]
    kinds = Counter(stop.kind for stop in stops)
    details = "".join(f"; {stop.instance} {stop.summary}" for stop in bad)
    crashed = any(stop.kind == "crashed" for stop in bad)
    return CheckResult(
        "recorded stops",
        Status.RED if crashed else judge_time([measured.worst_load] if bad else []),  # a forced stop took too long
        ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + details,
        "an instance had to abort requests or jobs when it stopped, or it crashed",
    )


def is_named(instance_id: str, names: Collection[str]) -> bool:
    """Return whether the ID is one of the names. The gunicorn workers of one instance are called NAME-w1, NAME-w2."""
    return instance_id in names or re.sub(r"-w\d+$", "", instance_id) in names


def peak(times: Iterable[float], window: float) -> int:
    """Return the largest number of times within any `window` seconds."""
    ordered = sorted(times)
    start, most = 0, 0
    for number, time in enumerate(ordered, 1):
        while time - ordered[start] >= window:
            start += 1
        most = max(most, number - start)
    return most
