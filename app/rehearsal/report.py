"""From measurements to a verdict: the lines of the report card, each with its limit and with what it means when it is red.

All times are seconds on one monotonic clock. A limit on time is widened by the longest moment in which the load itself stood
still during that phase (`Phase.stall`): a busy machine makes the judgement milder, never wrong.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_GAP = 1.0  # between two successful requests: what a person takes for a slow page
IN_FLIGHT = 0.5  # requests sent so soon after a SIGKILL may still reach the dead instance; no proxy repeats a POST
MAX_CUT_OFF = 20  # of them: a fifth of a second of the load
MAX_SECONDS_IN_OUTAGE = 2.0  # an answer, if only 503, while Redis is away: a visitor is told instead of kept waiting
MAX_RECOVERY = 5.0  # after Redis is back
MAX_LATE = 5.0  # the official client's first wait of at most 1.5 s, and one more of 3 s if it met a full house
MAX_RECONNECT, RECONNECTED = 5.0, 0.95  # the same, for so large a share of the sockets
RATE_TOLERANCE = 1.5  # times DRAIN_RATE
RATE_WINDOW, RATE_COUNT = 0.25, 10  # seconds, but as many as DRAIN_RATE needs for so many sockets: fewer make no rate
STOP_MARGIN = 5.0  # beside SHUTDOWN_DELAY and the sockets: requests in flight, closing, a busy machine
GIVE_UP = 2.5  # before SHUTDOWN_TIMEOUT a stop that did not end by itself is cut off
MAX_STALL = 1.0  # a load that stood still for longer has measured itself


@dataclass(frozen=True)
class Request:
    started: float
    seconds: float
    method: str
    status: int  # 0: no answer
    user_id: int
    may_retry: bool = False  # it said when to try again

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class Outage:
    """Of one socket: from its loss to the moment in which it was served again."""

    lost_at: float
    instance: str  # that had it
    back_at: float | None = None


@dataclass
class Socket:
    user_id: int
    heard: list[tuple[float, int]] = field(default_factory=list)  # when, seq; as they came on the wire
    outages: list[Outage] = field(default_factory=list)
    connected: bool = False  # now
    signed_out: bool = False


@dataclass(frozen=True)
class Stop:
    instance: str
    asked_at: float
    gone_at: float
    ready_at: float
    unready_at: float | None  # when /health/ready was first seen to answer 503
    closings: Sequence[float]  # of its sockets
    stall: float = 0.0  # while they were closed


@dataclass
class Phase:
    name: str
    started: float
    ended: float = 0.0
    stall: float = 0.0
    killed_at: float | None = None
    down_at: float | None = None  # Redis
    back_at: float | None = None

    def has(self, moment: float) -> bool:
        return self.started <= moment < self.ended


@dataclass(frozen=True)
class Settings:
    drain_rate: float
    shutdown_delay: float
    shutdown_timeout: float


@dataclass
class Measurements:
    url: str
    instances: int
    settings: Settings
    requests: list[Request] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    accepted: dict[int, dict[int, float]] = field(default_factory=dict)  # user -> seq -> when it was stored
    logouts: int = 0
    revived: int = 0  # sessions that were valid again after their logout
    remarks: list[str] = field(default_factory=list)  # what was not rehearsed
    interrupted: str | None = None  # why it ended before its end


@dataclass(frozen=True)
class Line:
    name: str
    ok: bool
    text: str
    meaning: str  # of red


def judge(measured: Measurements) -> list[Line]:
    if not measured.phases:
        return [_interruption(measured)]
    return [
        *_rehearsed(measured),
        *_requests(measured),
        _gap(measured),
        *_redis(measured),
        *_notifications(measured),
        _signed_out(measured),
        _logouts(measured),
        _reconnections(measured),
        *_stops(measured),
    ]


def is_green(lines: Iterable[Line]) -> bool:
    return all(line.ok for line in lines)


def as_text(measured: Measurements, lines: Sequence[Line]) -> str:
    verdict = "GREEN" if is_green(lines) else "RED"
    width = max(len(line.name) for line in lines)
    shown = [f"Rehearsal of {measured.url}, {measured.instances} instances, {_seconds(measured):.0f} s: {verdict}", ""]
    for line in lines:
        shown.append(f"  {'ok ' if line.ok else 'RED'}  {line.name:{width}}  {line.text}")
        if not line.ok:
            shown.append(f"       {'':{width}}  -> {line.meaning}")
    return "\n".join([*shown, *(f"  -    {remark}" for remark in measured.remarks)])


def as_data(measured: Measurements, lines: Sequence[Line]) -> dict[str, Any]:
    return {
        "verdict": "green" if is_green(lines) else "red",
        "url": measured.url,
        "instances": measured.instances,
        "seconds": round(_seconds(measured), 1),
        "lines": [{"name": line.name, "ok": line.ok, "text": line.text, "meaning": line.meaning} for line in lines],
        "remarks": measured.remarks,
    }


def peak(moments: Iterable[float], window: float) -> int:
    """The largest number of moments within any `window` seconds."""
    ordered = sorted(moments)
    starts, most = 0, 0
    for number, moment in enumerate(ordered, 1):
        while moment - ordered[starts] >= window:
            starts += 1
        most = max(most, number - starts)
    return most


def _seconds(measured: Measurements) -> float:
    return measured.phases[-1].ended - measured.phases[0].started if measured.phases else 0.0


def _interruption(measured: Measurements) -> Line:
    reason = measured.interrupted or "nothing was rehearsed"
    return Line("rehearsal", False, reason, "it ended there: what should have followed is not known")


def _rehearsed(measured: Measurements) -> Iterator[Line]:
    if measured.interrupted:
        yield _interruption(measured)
    stall = max(phase.stall for phase in measured.phases)
    yield Line(
        "own load",
        stall <= MAX_STALL,
        f"stood still for {stall:.2f} s at most",
        "this machine is too busy to judge anything by its clock: rehearse from another one, or at another time",
    )


def _requests(measured: Measurements) -> Iterator[Line]:
    """A refusal for want of a session is no failure of the request, but counted as a user who was signed out."""
    answered = [request for request in measured.requests if request.status != 401]
    bad = [request for request in answered if not request.ok]
    excused, cut_off = 0, 0
    failed: Counter[str] = Counter()
    for request in bad:
        phase = _phase_of(measured, request.started)
        if phase and phase.killed_at is not None and request.started - IN_FLIGHT < phase.killed_at <= request.ended:
            cut_off += 1
        elif phase and _in_outage(phase, request.started) and request.status == 503 and request.may_retry:
            excused += 1
        else:
            failed[f"{request.method} {request.status or 'no answer'}, {phase.name if phase else 'at rest'}"] += 1
    details = "; ".join(f"{count} x {what}" for what, count in failed.most_common(4))
    yield Line(
        "requests",
        not failed and bool(answered),
        f"{len(measured.requests):,} sent, {failed.total():,} failed" + (f" ({details})" if details else ""),
        "visitors saw errors: an instance was still sent requests after it had stopped taking them, or the balancer gave up",
    )
    if any(phase.killed_at is not None for phase in measured.phases):
        yield Line(
            "cut off",
            cut_off <= MAX_CUT_OFF,
            f"{cut_off} in flight at the SIGKILL (at most {MAX_CUT_OFF})",
            "the balancer took too long to send requests elsewhere after an instance had died",
        )
    if any(phase.down_at is not None for phase in measured.phases):
        yield Line("refused", True, f"{excused:,} answered 503 with Retry-After while Redis was away", "")


def _phase_of(measured: Measurements, moment: float) -> Phase | None:
    return next((phase for phase in measured.phases if phase.has(moment)), None)


def _in_outage(phase: Phase, moment: float) -> bool:
    """Of Redis, and the time that a fleet may take to find its way back."""
    if phase.down_at is None:
        return False
    return phase.down_at <= moment <= (phase.ended if phase.back_at is None else phase.back_at + MAX_RECOVERY + phase.stall)


def _gap(measured: Measurements) -> Line:
    gaps = [(gap, phase) for phase in measured.phases if phase.down_at is None for gap in _gaps(measured.requests, phase)]
    longest = max((gap for gap, _ in gaps), default=0.0)
    return Line(
        "longest gap",
        all(gap <= MAX_GAP + phase.stall for gap, phase in gaps),
        f"{longest:.2f} s between two successful requests (at most {MAX_GAP:g}), Redis' restart aside",
        "for that long nobody was served: all instances were away at once, or the balancer had given all of them up",
    )


def _gaps(requests: Iterable[Request], phase: Phase) -> list[float]:
    served = sorted(request.ended for request in requests if request.ok and phase.has(request.ended))
    moments = [phase.started, *served, phase.ended]
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def _redis(measured: Measurements) -> Iterator[Line]:
    for phase in measured.phases:
        if phase.down_at is None:
            continue
        if phase.back_at is None:
            yield Line("redis", False, "Redis was not restarted", "the command of --redis-restart did not bring up a new Redis")
            continue
        during = [request for request in measured.requests if _in_outage(phase, request.started)]
        slowest = max((request.seconds for request in during), default=0.0)
        yield Line(
            "slowest answer",
            slowest <= MAX_SECONDS_IN_OUTAGE + phase.stall,
            f"{slowest:.2f} s while Redis was away for {phase.back_at - phase.down_at:.1f} s (at most {MAX_SECONDS_IN_OUTAGE:g})",
            "visitors were kept waiting for Redis instead of being told; requests pile up and take the instance with them",
        )
        recovery = _recovery(measured, phase, phase.back_at)
        yield Line(
            "recovery",
            recovery <= MAX_RECOVERY + phase.stall,
            f"everything as before {recovery:.1f} s after Redis was back (at most {MAX_RECOVERY:g})",
            "instances did not find their way back to Redis by themselves; their logs say what they waited for",
        )


def _recovery(measured: Measurements, phase: Phase, back_at: float) -> float:
    """Until the last refusal, and the last notification that had been stored before."""
    last = [request.ended for request in measured.requests if request.status == 503 and _in_outage(phase, request.started)]
    for socket in measured.sockets:
        accepted = measured.accepted.get(socket.user_id, {})
        last += [
            at for at, seq in socket.heard if phase.has(at) and phase.has(sent := accepted.get(seq, 0.0)) and sent <= back_at
        ]
    return max(0.0, *(at - back_at for at in last)) if last else 0.0


def _notifications(measured: Measurements) -> Iterator[Line]:
    accepted = sum(map(len, measured.accepted.values()))
    lost = doubled = disordered = late = 0
    worst = 0.0
    for socket in measured.sockets:
        sent = measured.accepted.get(socket.user_id, {})
        seqs = [seq for _, seq in socket.heard]
        lost += len(sent.keys() - set(seqs))
        doubled += len(seqs) - len(set(seqs))
        disordered += sum(later < earlier for earlier, later in itertools.pairwise(seqs))
        for at, seq in socket.heard:
            if seq in sent:
                delay, limit = _delay(measured, sent[seq], at)
                worst = max(worst, delay)
                late += delay > limit
    yield Line(
        "notifications",
        bool(accepted) and not lost + doubled + disordered,
        f"{accepted:,} accepted, for {len(measured.sockets)} sockets: {lost} lost, {doubled} doubled, {disordered} out of order",
        "what was stored did not reach every socket of its user once and in order",
    )
    yield Line(
        "late",
        not late,
        f"{late} more than {MAX_LATE:g} s after they were stored; the latest {worst:.1f} s",
        "sockets took too long to come back, or an instance did not notice what it had missed",
    )


def _delay(measured: Measurements, sent: float, heard: float) -> tuple[float, float]:
    """And its limit. What is stored while Redis is away is due when it is back."""
    phase = _phase_of(measured, heard)
    if phase and phase.back_at is not None and sent < phase.back_at:
        sent = min(heard, phase.back_at)
    return heard - sent, MAX_LATE + (phase.stall if phase else 0.0)


def _signed_out(measured: Measurements) -> Line:
    by_http = {request.user_id for request in measured.requests if request.status == 401}
    by_socket = {socket.user_id for socket in measured.sockets if socket.signed_out}
    users = {socket.user_id for socket in measured.sockets} | {request.user_id for request in measured.requests}
    return Line(
        "signed out",
        not by_http | by_socket,
        f"{len(by_http | by_socket)} of {len(users)} users",
        "sessions were not valid everywhere: do all instances have the same SESSION_SECRET, SESSION_ENCRYPTION_KEY and Redis?",
    )


def _logouts(measured: Measurements) -> Line:
    return Line(
        "logouts",
        measured.revived == 0,
        f"{measured.logouts} sessions ended in the middle of their requests, {measured.revived} came back",
        "a cookie was valid again after its logout: a request that was under way wrote the session back",
    )


def _reconnections(measured: Measurements) -> Line:
    times = sorted(
        outage.back_at - max(outage.lost_at, _redis_back(measured, outage.lost_at))
        for socket in measured.sockets
        for outage in socket.outages
        if outage.back_at is not None
    )
    away = sum(not socket.connected for socket in measured.sockets)
    share = times[max(0, int(len(times) * RECONNECTED + 0.999) - 1)] if times else 0.0
    stall = max((phase.stall for phase in measured.phases), default=0.0)
    return Line(
        "reconnections",
        away == 0 and share <= MAX_RECONNECT + stall,
        f"{len(times)} by the official client itself, {RECONNECTED:.0%} within {share:.1f} s (at most {MAX_RECONNECT:g}); "
        f"{away} still away",
        "sockets were closed in a way after which clients stay away, or no instance took them in",
    )


def _redis_back(measured: Measurements, moment: float) -> float:
    phase = _phase_of(measured, moment)
    return phase.back_at or 0.0 if phase else 0.0


def _stops(measured: Measurements) -> Iterator[Line]:
    for stop in measured.stops:
        yield _readiness(stop, measured.settings)
        yield _pace(stop, measured.settings)
        yield _duration(stop, measured.settings)


def _readiness(stop: Stop, settings: Settings) -> Line:
    first = min(stop.closings, default=stop.gone_at)
    seen = stop.unready_at is not None and stop.unready_at <= first
    if settings.shutdown_delay < 1:
        return Line(f"{stop.instance} unready", True, f"not judged: SHUTDOWN_DELAY is {settings.shutdown_delay:g} s", "")
    after = "never" if stop.unready_at is None else f"{stop.unready_at - stop.asked_at:.2f} s after SIGTERM"
    return Line(
        f"{stop.instance} unready",
        seen,
        f"/health/ready turned 503 {after}; the first socket was closed after {first - stop.asked_at:.2f} s",
        "the balancer was not told before the instance stopped: /health/ready has to answer 503 for SHUTDOWN_DELAY",
    )


def _pace(stop: Stop, settings: Settings) -> Line:
    rate = _allowed_rate(stop, settings)
    window = max(RATE_WINDOW, RATE_COUNT / rate)
    limit = RATE_TOLERANCE * rate * (window + stop.stall)
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
