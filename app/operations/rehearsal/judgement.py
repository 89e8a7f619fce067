"""What visitors noticed: each line of the report card with its limit, and what it means when it is red.

A limit on time is widened by the longest moment in which the load itself stood still during that phase (`Phase.stall`): a busy
machine makes the judgement milder, never wrong.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.operations.rehearsal.measurements import Accounting, Measurements, No, Phase, Request

MAX_GAP = 1.0  # between two successful requests: what a person takes for a slow page
IN_FLIGHT = 0.5  # requests sent so soon after a SIGKILL may still reach the dead instance; no proxy repeats a POST
MAX_CUT_OFF = 20  # of them: a fifth of a second of the load
FAILED, CUT_OFF, EXCUSED = "failed", "cut off", "excused"
SHOWN = 4  # kinds of failures
MAX_SECONDS_IN_OUTAGE = 2.0  # an answer, if only 503, while Redis is away: a visitor is told instead of kept waiting
MAX_RECOVERY = 5.0  # after Redis is back
# The official client waits 1.5, 2.5 and 4.5 s at most before its first attempts to come back. Nearly all have to succeed with
# the third; what was stored meanwhile follows.
MAX_RECONNECT, RECONNECTED = 8.5, 0.95
MAX_LATE = 10.0
MAX_STALL = 1.0  # a load that stood still for longer has measured itself


@dataclass(frozen=True)
class Line:
    name: str
    ok: bool
    text: str
    meaning: str  # of red


def interruption(measured: Measurements) -> Line:
    reason = measured.interrupted or "nothing was rehearsed"
    return Line("rehearsal", False, reason, "it ended there: what should have followed is not known")


def completeness(measured: Measurements) -> Iterator[Line]:
    if measured.interrupted:
        yield interruption(measured)
    stall = max(phase.stall for phase in measured.phases)
    yield Line(
        "own load",
        stall <= MAX_STALL,
        f"stood still for {stall:.2f} s at most",
        "this machine is too busy to judge anything by its clock: rehearse from another one, or at another time",
    )


def requests(measured: Measurements) -> Iterator[Line]:
    """A refusal for want of a session is no failure of the request, but counted as a user who was signed out."""
    answered = [request for request in measured.requests if request.status != 401]
    kinds = [(_kind(measured, request), request) for request in answered if not request.ok]
    failed = [request for kind, request in kinds if kind == FAILED]
    slowest = max((request.seconds for request in measured.requests), default=0.0)
    yield Line(
        "requests",
        not failed and bool(answered),
        f"{len(measured.requests):,} sent, {len(failed):,} failed{_details(measured, failed)}; slowest {slowest:.1f} s",
        "visitors saw errors: an instance was sent what it did not serve any more, or the machines are too small for the load",
    )
    counts = Counter(kind for kind, _ in kinds)
    if any(phase.killed_at is not None for phase in measured.phases):
        yield Line(
            "cut off",
            counts[CUT_OFF] <= MAX_CUT_OFF,
            f"{counts[CUT_OFF]} in flight at the SIGKILL (at most {MAX_CUT_OFF})",
            "the balancer took too long to send requests elsewhere after an instance had died",
        )
    if any(phase.down_at is not None for phase in measured.phases):
        yield Line("refused", True, f"{counts[EXCUSED]:,} answered 503 with Retry-After while Redis was away", "")


def _kind(measured: Measurements, request: Request) -> str:
    """Of a request that was not served."""
    phase = _phase_of(measured, request.started)
    if phase and phase.killed_at is not None and request.started - IN_FLIGHT < phase.killed_at <= request.ended:
        return CUT_OFF
    if phase and _in_outage(phase, request.started) and request.status == 503 and request.may_retry:
        return EXCUSED
    return FAILED


def _details(measured: Measurements, failed: Sequence[Request]) -> str:
    if not failed:
        return ""
    kinds: Counter[str] = Counter()
    for request in failed:
        phase = _phase_of(measured, request.started)
        kinds[f"{request.method} {request.status or 'no answer'}, {phase.name if phase else 'at rest'}"] += 1
    (why, _), *_ = Counter(request.why for request in failed).most_common(1)
    counted = "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(SHOWN))
    return f" ({counted}{f'; most often: {why}' if why else ''})"


def _phase_of(measured: Measurements, moment: float) -> Phase | None:
    return next((phase for phase in measured.phases if phase.has(moment)), None)


def _in_outage(phase: Phase, moment: float) -> bool:
    """Of Redis, and the time that a fleet may take to find its way back."""
    if phase.down_at is None:
        return False
    return phase.down_at <= moment <= (phase.ended if phase.back_at is None else phase.back_at + MAX_RECOVERY + phase.stall)


def longest_gap(measured: Measurements) -> Line:
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


def redis(measured: Measurements) -> Iterator[Line]:
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


def notifications(measured: Measurements) -> Iterator[Line]:
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


def events(measured: Measurements, accounting: Accounting) -> Line:
    """What was answered 202 is due, even if it was not taken: these users have not said no."""
    due = [event_id for batch in measured.events if batch.taken is not None for event_id in batch.ids]
    lost = sum(event_id not in accounting.rows for event_id in due)
    doubled = sum(count > 1 for count in accounting.rows.values())
    waiting = f"; {accounting.waiting:,} still wait" if accounting.waiting else ""
    return Line(
        "events",
        bool(due) and not lost + doubled,
        f"{len(due):,} accepted of users who let themselves be counted: {lost:,} lost, {doubled:,} doubled{waiting}",
        "what was answered 202 is not stored, or not once: does a job worker run, and does Redis keep what it has taken?",
    )


def opt_outs(measured: Measurements, accounting: Accounting) -> Line:
    """What was sent before the answer and stored by then may stay; nothing else of that time may ever be stored."""
    noes = [no for no in measured.noes if no.answered]
    taken = sum(len(batch.ids) for no in noes for batch in no.after if batch.taken)
    stored = set(accounting.beyond_fences).union(*(_stored_after(no, accounting) for no in noes))
    return Line(
        "opt-outs",
        bool(noes) and not taken and not stored,
        f"{len(noes)} said no in the middle of their events: {taken:,} taken and {len(stored):,} stored after it",
        "people were counted against their will: an instance went by what it had known before, or a worker did not look whether "
        "somebody had said no meanwhile",
    )


def _stored_after(no: No, accounting: Accounting) -> set[str]:
    if no.stored is None:
        return set()
    sent = {event_id for batch in no.before + no.after for event_id in batch.ids}
    later = {event_id for event_id, at in no.stored.items() if no.fenced_at is not None and at > no.fenced_at}
    return (sent & accounting.rows.keys()) - no.stored.keys() | later


def signed_out(measured: Measurements) -> Line:
    by_http = {request.user_id for request in measured.requests if request.status == 401}
    by_socket = {socket.user_id for socket in measured.sockets if socket.signed_out}
    users = {socket.user_id for socket in measured.sockets} | {request.user_id for request in measured.requests}
    return Line(
        "signed out",
        not by_http | by_socket,
        f"{len(by_http | by_socket)} of {len(users)} users",
        "sessions were not valid everywhere: do all instances have the same SESSION_SECRET, SESSION_ENCRYPTION_KEY and Redis?",
    )


def logouts(measured: Measurements) -> Line:
    return Line(
        "logouts",
        measured.revived == 0,
        f"{measured.logouts} sessions ended in the middle of their requests, {measured.revived} came back",
        "a cookie was valid again after its logout: a request that was under way wrote the session back",
    )


def reconnections(measured: Measurements) -> Line:
    times = sorted(
        outage.back_at - max(outage.lost_at, _redis_back(measured, outage.lost_at))
        for socket in measured.sockets
        for outage in socket.outages
        if outage.back_at is not None and not socket.is_bystander
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
