"""How instances stopped: whether the balancer was told first, how fast sockets were closed, how long it took."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from app.operations.rehearsal.judgement import Line
from app.operations.rehearsal.measurements import Measurements, Settings, Stop

RATE_TOLERANCE = 1.5  # times DRAIN_RATE
RATE_WINDOW, RATE_COUNT = 0.4, 10  # seconds, but as many as DRAIN_RATE needs for so many sockets: fewer make no rate
JITTER = 0.02  # seconds by which two closings may be seen closer together than they were
MIN_SIGHT = 0.3  # seconds in which an instance must be seen to be unready: it is asked some twenty times a second
STOP_MARGIN = 5.0  # beside SHUTDOWN_DELAY and the sockets: requests in flight, closing, a busy machine
GIVE_UP = 2.5  # before SHUTDOWN_TIMEOUT a stop that did not end by itself is cut off


def stops(measured: Measurements) -> Iterator[Line]:
    for stop in measured.stops:
        yield _readiness(stop, measured.settings)
        yield _pace(stop, measured.settings)
        yield _duration(stop, measured.settings)
    if measured.told:
        yield _account(measured)


def _readiness(stop: Stop, settings: Settings) -> Line:
    """With a delay, before the first socket is closed; without one there is only the time that closing them takes."""
    due = _first_or_last(stop, first=settings.shutdown_delay >= 1)
    if due - stop.asked_at < MIN_SIGHT:
        return Line(f"{stop.instance} unready", True, "not judged: there was no time to see it", "")
    turned = "never turned 503"
    if stop.unready_at is not None:
        turned = f"turned 503 {stop.unready_at - stop.asked_at:.2f} s after SIGTERM"
    closed = (
        f"the first socket was closed after {min(stop.closings) - stop.asked_at:.2f} s" if stop.closings else "it had no sockets"
    )
    return Line(
        f"{stop.instance} unready",
        stop.unready_at is not None and stop.unready_at <= due,
        f"/health/ready {turned}; {closed}",
        "the balancer was not told before the instance stopped: /health/ready has to answer 503 from SIGTERM on",
    )


def _first_or_last(stop: Stop, *, first: bool) -> float:
    """Closing of a socket; or its end, if it had none."""
    return min(stop.closings, default=stop.gone_at) if first else max(stop.closings, default=stop.asked_at)


def _pace(stop: Stop, settings: Settings) -> Line:
    rate = _allowed_rate(stop, settings)
    window = max(RATE_WINDOW, RATE_COUNT / rate)
    limit = RATE_TOLERANCE * rate * (window + JITTER + stop.stall)
    most = peak(stop.closings, window)
    return Line(
        f"{stop.instance} drain",
        most <= limit,
        f"{len(stop.closings)} sockets closed, at most {most} within {window:g} s (at most {limit:.0f}; DRAIN_RATE {rate:.0f})",
        "all these clients come back at once, to the instances that are left",
    )


def _allowed_rate(stop: Stop, settings: Settings) -> float:
    """Faster only where the timeout leaves less time."""
    return max(settings.drain_rate, 2 * len(stop.closings) / max(1.0, settings.shutdown_timeout - settings.shutdown_delay))


def _duration(stop: Stop, settings: Settings) -> Line:
    seconds, least = stop.gone_at - stop.asked_at, settings.shutdown_delay + len(stop.closings) / _allowed_rate(stop, settings)
    limit = min(least + STOP_MARGIN, max(settings.shutdown_timeout - GIVE_UP, least + 1))
    return Line(
        f"{stop.instance} stop",
        seconds <= limit,
        f"{seconds:.1f} s (at most {limit:.1f}; SHUTDOWN_TIMEOUT is {settings.shutdown_timeout:g}); "
        f"ready again {stop.ready_at - stop.gone_at:.1f} s later",
        "something held it up until it was cut off: its log line `stopped:` names the phase that took the time",
    )


def _account(measured: Measurements) -> Line:
    """What the instances say of their own ends."""
    killed = {phase.killed for phase in measured.phases}
    bad = [one for one in measured.told if one.kind != "clean" and not (one.kind == "crashed" and is_named(one.instance, killed))]
    kinds = Counter(one.kind for one in measured.told)
    told = "".join(f"; {one.instance} {one.summary}" for one in bad)
    return Line(
        "stops as told",
        not bad,
        ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + told,
        "an instance had to cut something off when it stopped, or died without being told to",
    )


def is_named(instance_id: str, names: Collection[str]) -> bool:
    """Several gunicorn workers of one instance are called NAME-w1, NAME-w2."""
    return instance_id in names or re.sub(r"-w\d+$", "", instance_id) in names


def peak(moments: Iterable[float], window: float) -> int:
    """The largest number of moments within any `window` seconds."""
    ordered = sorted(moments)
    starts, most = 0, 0
    for number, moment in enumerate(ordered, 1):
        while moment - ordered[starts] >= window:
            starts += 1
        most = max(most, number - starts)
    return most
