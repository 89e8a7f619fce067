"""The lines of the report card: what visitors noticed, compared with a limit.

Each limit on time is extended by the longest stall of the load generator in that phase. If a measurement exceeds it while the
machine is too busy (`MachineLoad.is_too_busy`), the line is not judged, because the reason may be the machine. Lines about loss
are judged on every machine.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.fleet.balance import MAX_SHARE_OF_MEAN, MIN_EXCESS
from app.operations.rehearsal.http_client import TIMEOUT_SECONDS
from app.operations.rehearsal.machine import MAX_STALL_SECONDS, MachineLoad
from app.operations.rehearsal.measurements import Measurements, OptOut, RehearsalPhase, SentRequest, StoredEvents

MAX_GAP_SECONDS = 1.0  # between two successful requests: a visitor takes it for a slow page
IN_FLIGHT_SECONDS = 0.5  # requests sent this soon after a SIGKILL may still reach the dead instance; no proxy repeats a POST
MAX_CUT_OFF = 20  # requests: the load of a fifth of a second
FAILED, CUT_OFF, EXCUSED = "failed", "cut off", "excused"
MAX_FAILURE_KINDS = 4  # listed in the report
MAX_SECONDS_IN_OUTAGE = 2.0  # for a response, even a 503, while Redis is unavailable
MAX_RECOVERY_SECONDS = 5.0  # after Redis is available again
# The official client waits at most 1.5, 2.5 and 4.5 s before its first three reconnection attempts. The third must succeed for
# nearly all clients.
MAX_RECONNECT_SECONDS, RECONNECTED_SHARE = 8.5, 0.95
MAX_DELAY_SECONDS = 10.0
MAX_BALANCE_SECONDS = 60.0


class Status(StrEnum):
    GREEN = "green"
    RED = "red"
    NOT_JUDGED = "not judged"  # a limit on time was exceeded while the machine was too busy


@dataclass(frozen=True)
class CheckResult:
    name: str
    status: Status
    text: str
    meaning: str  # what a failure means

    @property
    def ok(self) -> bool:
        return self.status == Status.GREEN


def judge(ok: bool) -> Status:
    """Return the status of a line that every machine can judge."""
    return Status.GREEN if ok else Status.RED


def judge_time(late: Iterable[MachineLoad]) -> Status:
    """Return the status of a line about time. `late`: the load of the machine during each measurement above its limit."""
    loads = list(late)
    if not loads:
        return Status.GREEN
    return Status.NOT_JUDGED if all(load.is_too_busy for load in loads) else Status.RED


def interruption(measured: Measurements) -> CheckResult:
    reason = measured.interrupted or "no phase was run"
    meaning = "the rehearsal ended there; the remaining phases were not tested"
    return CheckResult("rehearsal", judge_time([measured.worst_load]), reason, meaning)


def completeness(measured: Measurements) -> Iterator[CheckResult]:
    if measured.interrupted:
        yield interruption(measured)
    load = measured.worst_load
    yield CheckResult(
        "machine",
        Status.GREEN if load.stall <= MAX_STALL_SECONDS else Status.NOT_JUDGED,  # limits that were extended by so much are none
        str(load),
        "this machine is too busy for time measurements: run the rehearsal on another machine or at another time",
    )


def requests(measured: Measurements) -> Iterator[CheckResult]:
    """Check for failed requests. A 401 is not a failed request; `signed_out` counts its user."""
    answered = [request for request in measured.requests if request.status != 401]
    kinds = [(_kind(measured, request), request) for request in answered if not request.ok]
    failed = [request for kind, request in kinds if kind == FAILED]
    slowest = max((request.seconds for request in measured.requests), default=0.0)
    yield CheckResult(
        "requests",
        _judge_requests(measured, failed) if answered else Status.RED,
        f"{len(measured.requests):,} sent, {len(failed):,} failed{_details(measured, failed)}; the slowest took {slowest:.1f} s",
        "visitors saw errors: an instance received requests that it no longer served, or the machines are too small for the load",
    )
    counts = Counter(kind for kind, _ in kinds)
    if killed := [phase for phase in measured.phases if phase.killed_at is not None]:
        yield CheckResult(
            "cut off",
            judge_time(phase.load for phase in killed if counts[CUT_OFF] > MAX_CUT_OFF),
            f"{counts[CUT_OFF]} requests in flight failed at the SIGKILL (at most {MAX_CUT_OFF})",
            "the load balancer took too long to route around the dead instance",
        )
    if any(phase.down_at is not None for phase in measured.phases):
        text = f"{counts[EXCUSED]:,} requests were answered with 503 and Retry-After while Redis was unavailable"
        yield CheckResult("refused", Status.GREEN, text, "")


def _judge_requests(measured: Measurements, failed: Sequence[SentRequest]) -> Status:
    """A busy machine delays requests until the fleet or the client gives up. It does not cause any other failure."""
    if not all(was_given_up(request) for request in failed):
        return Status.RED
    phases = [_phase_at(measured, request.started) for request in failed]
    return judge_time(phase.load if phase else measured.worst_load for phase in phases)


def was_given_up(request: SentRequest) -> bool:
    """Return whether the fleet told the client to try again later, or whether somebody stopped waiting for the response."""
    return (request.status == 503 and request.may_retry) or request.status == 504 or request.seconds >= TIMEOUT_SECONDS


def _kind(measured: Measurements, request: SentRequest) -> str:
    phase = _phase_at(measured, request.started)
    if phase and phase.killed_at is not None:
        reaches_dead_instance = IN_FLIGHT_SECONDS + phase.load.stall
        if request.started - reaches_dead_instance < phase.killed_at <= request.ended:
            return CUT_OFF
    if phase and _in_outage(phase, request.started) and request.status == 503 and request.may_retry:
        return EXCUSED
    return FAILED


def _details(measured: Measurements, failed: Sequence[SentRequest]) -> str:
    if not failed:
        return ""
    kinds: Counter[str] = Counter()
    failed = [request for request in failed if not was_given_up(request)] or failed  # these make the line red on any machine
    for request in failed:
        phase = _phase_at(measured, request.started)
        kinds[f"{request.method} {request.status or 'no response'}, {phase.name if phase else 'between phases'}"] += 1
    (error, _), *_ = Counter(request.error for request in failed).most_common(1)
    counted = "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(MAX_FAILURE_KINDS))
    return f" ({counted}{f'; most frequent error: {error}' if error else ''})"


def _phase_at(measured: Measurements, time: float) -> RehearsalPhase | None:
    return next((phase for phase in measured.phases if phase.has(time)), None)


def _in_outage(phase: RehearsalPhase, time: float) -> bool:
    """Whether Redis was unavailable at that time, or the fleet could still be reconnecting to it."""
    if phase.down_at is None:
        return False
    end = phase.ended if phase.back_at is None else phase.back_at + MAX_RECOVERY_SECONDS + phase.load.stall
    return phase.down_at <= time <= end


def longest_gap(measured: Measurements) -> CheckResult:
    gaps = [(gap, phase) for phase in measured.phases if phase.down_at is None for gap in _gaps(measured.requests, phase)]
    longest = max((gap for gap, _ in gaps), default=0.0)
    return CheckResult(
        "longest gap",
        judge_time(phase.load for gap, phase in gaps if gap > MAX_GAP_SECONDS + phase.load.stall),
        f"{longest:.2f} s between two successful requests outside the Redis restart (at most {MAX_GAP_SECONDS:g})",
        "no visitor was served for that long: all instances were down, or the load balancer had marked them as down",
    )


def _gaps(requests: Iterable[SentRequest], phase: RehearsalPhase) -> list[float]:
    served = sorted(request.ended for request in requests if request.ok and phase.has(request.ended))
    return [later - earlier for earlier, later in itertools.pairwise([phase.started, *served, phase.ended])]


def redis(measured: Measurements) -> Iterator[CheckResult]:
    for phase in measured.phases:
        if phase.down_at is None:
            continue
        if phase.back_at is None:
            meaning = "the --redis-restart command did not start a new Redis"
            yield CheckResult("redis", Status.RED, "Redis was not restarted", meaning)
            continue
        during = [request for request in measured.requests if _in_outage(phase, request.started)]
        slowest = max((request.seconds for request in during), default=0.0)
        yield CheckResult(
            "slowest answer",
            judge_time([phase.load] if slowest > MAX_SECONDS_IN_OUTAGE + phase.load.stall else []),
            f"{slowest:.2f} s (at most {MAX_SECONDS_IN_OUTAGE:g}) while Redis was unavailable "
            f"for {phase.back_at - phase.down_at:.1f} s",
            "requests waited for Redis instead of failing fast; they pile up and block the instance",
        )
        recovery = _recovery(measured, phase, phase.back_at)
        yield CheckResult(
            "recovery",
            judge_time([phase.load] if recovery > MAX_RECOVERY_SECONDS + phase.load.stall else []),
            f"the fleet had recovered {recovery:.1f} s after Redis was available again (at most {MAX_RECOVERY_SECONDS:g})",
            "instances did not reconnect to Redis by themselves in time; their logs show what they waited for",
        )


def _recovery(measured: Measurements, phase: RehearsalPhase, back_at: float) -> float:
    """Return the seconds until the last 503 and the last notification that had been stored before Redis was back."""
    last = [request.ended for request in measured.requests if request.status == 503 and _in_outage(phase, request.started)]
    for socket in measured.sockets:
        accepted = measured.accepted.get(socket.user_id, {})
        last += [
            at for at, seq in socket.received if phase.has(at) and phase.has(sent := accepted.get(seq, 0.0)) and sent <= back_at
        ]
    return max(0.0, *(at - back_at for at in last)) if last else 0.0


def notifications(measured: Measurements) -> Iterator[CheckResult]:
    accepted = sum(map(len, measured.accepted.values()))
    lost = duplicated = disordered = 0
    late: list[MachineLoad] = []
    worst = 0.0
    for socket in measured.sockets:
        sent = measured.accepted.get(socket.user_id, {})
        seqs = [seq for _, seq in socket.received]
        lost += len(sent.keys() - set(seqs))
        duplicated += len(seqs) - len(set(seqs))
        disordered += sum(later < earlier for earlier, later in itertools.pairwise(seqs))
        for at, seq in socket.received:
            if seq in sent:
                delay, load = _delay_and_load(measured, sent[seq], at)
                worst = max(worst, delay)
                late += [load] if delay > MAX_DELAY_SECONDS + load.stall else []
    yield CheckResult(
        "notifications",
        judge(bool(accepted) and not lost + duplicated + disordered),
        f"{accepted:,} accepted for {len(measured.sockets)} sockets: {lost} lost, {duplicated} duplicated, "
        f"{disordered} out of order",
        "a stored notification did not reach every socket of its user once and in order",
    )
    yield CheckResult(
        "late",
        judge_time(late),
        f"{len(late)} arrived more than {MAX_DELAY_SECONDS:g} s after they were stored; the longest delay was {worst:.1f} s",
        "sockets took too long to reconnect, or an instance did not notice that it had missed notifications",
    )


def _delay_and_load(measured: Measurements, sent: float, received: float) -> tuple[float, MachineLoad]:
    """A notification that is stored during an outage of Redis is due when Redis is available again."""
    phase = _phase_at(measured, received)
    if phase and phase.back_at is not None and sent < phase.back_at:
        sent = min(received, phase.back_at)
    return received - sent, phase.load if phase else measured.worst_load


def analytics(measured: Measurements) -> list[CheckResult]:
    found = measured.stored_events
    return [events(measured, found), opt_outs(measured, found)] if found else []


def events(measured: Measurements, found: StoredEvents) -> CheckResult:
    """Every event that was answered with 202 is due, because these users never opt out."""
    due = [event_id for batch in measured.events if batch.accepted is not None for event_id in batch.ids]
    lost = sum(event_id not in found.rows for event_id in due)
    duplicated = sum(count > 1 for count in found.rows.values())
    waiting = f"; {found.waiting:,} not stored yet" if found.waiting else ""
    return CheckResult(
        "events",
        judge(bool(due) and not lost + duplicated),
        f"{len(due):,} accepted from users who allow analytics: {lost:,} lost, {duplicated:,} duplicated{waiting}",
        "events that were answered with 202 are not stored exactly once: does a job worker run, and does Redis persist its data?",
    )


def opt_outs(measured: Measurements, found: StoredEvents) -> CheckResult:
    """Events that were stored before the opt-out was confirmed may stay. No other event of that user may ever be stored."""
    confirmed = [opt_out for opt_out in measured.opt_outs if opt_out.confirmed]
    accepted = sum(len(batch.ids) for opt_out in confirmed for batch in opt_out.after if batch.accepted)
    stored = set(found.beyond_fences).union(*(_stored_after(opt_out, found) for opt_out in confirmed))
    return CheckResult(
        "opt-outs",
        judge(bool(confirmed) and not accepted and not stored),
        f"{len(confirmed)} users opted out while they sent events: {accepted:,} accepted and {len(stored):,} stored afterwards",
        "events were recorded after an opt-out: an instance used a stale cache entry, or a worker did not check for an opt-out "
        "before it stored them",
    )


def _stored_after(opt_out: OptOut, found: StoredEvents) -> set[str]:
    if opt_out.stored is None:
        return set()
    sent = {event_id for batch in opt_out.before + opt_out.after for event_id in batch.ids}
    later = {event_id for event_id, at in opt_out.stored.items() if opt_out.fenced_at is not None and at > opt_out.fenced_at}
    return (sent & found.rows.keys()) - opt_out.stored.keys() | later


def signed_out(measured: Measurements) -> CheckResult:
    by_http = {request.user_id for request in measured.requests if request.status == 401}
    by_socket = {socket.user_id for socket in measured.sockets if socket.signed_out}
    users = {socket.user_id for socket in measured.sockets} | {request.user_id for request in measured.requests}
    return CheckResult(
        "signed out",
        judge(not by_http | by_socket),
        f"{len(by_http | by_socket)} of {len(users)} users lost their session",
        "sessions were not valid on every instance: do all have the same SESSION_SECRET, SESSION_ENCRYPTION_KEY and Redis?",
    )


def logouts(measured: Measurements) -> CheckResult:
    return CheckResult(
        "logouts",
        judge(measured.revived == 0),
        f"{measured.logouts} sessions ended with requests in flight, {measured.revived} became valid again",
        "a cookie was valid again after its logout: a request in flight wrote the session back",
    )


def reconnections(measured: Measurements) -> CheckResult:
    times = sorted(
        outage.back_at - max(outage.lost_at, _redis_back_at(measured, outage.lost_at))
        for socket in measured.sockets
        for outage in socket.outages
        if outage.back_at is not None and not socket.is_bystander
    )
    disconnected = sum(not socket.connected for socket in measured.sockets)
    percentile = times[max(0, int(len(times) * RECONNECTED_SHARE + 0.999) - 1)] if times else 0.0
    load = measured.worst_load
    return CheckResult(
        "reconnections",
        judge_time([load] if disconnected or percentile > MAX_RECONNECT_SECONDS + load.stall else []),
        f"{len(times)} by the official client, {RECONNECTED_SHARE:.0%} of them within {percentile:.1f} s "
        f"(at most {MAX_RECONNECT_SECONDS:g}); {disconnected} sockets still disconnected",
        "sockets were closed in a way after which clients do not reconnect, or no instance accepted them",
    )


def has_too_many(counts: Mapping[str, int]) -> bool:
    """Return whether an instance has so many more sockets than the mean that it sheds some."""
    mean = sum(counts.values()) / len(counts)
    return max(counts.values()) > MAX_SHARE_OF_MEAN * mean and max(counts.values()) >= mean + MIN_EXCESS


def balance(measured: Measurements) -> Iterator[CheckResult]:
    if (found := measured.balance) is None:
        return
    counts = ", ".join(f"{name} {count}" for name, count in found.counts.items())
    after = f"after {MAX_BALANCE_SECONDS:g} s" if found.seconds is None else f"{found.seconds:.1f} s later"
    yield CheckResult(
        "balance",
        judge_time([measured.worst_load] if found.seconds is None else []),
        f"{found.instance} returned without sockets; {after} the instances had: {counts} "
        f"(at most {MAX_SHARE_OF_MEAN:g} x the mean, or less than {MIN_EXCESS} more)",
        "an instance that is added or restarted does not get its share of the sockets: is an instance starting or stopping "
        "all the time?",
    )


def _redis_back_at(measured: Measurements, time: float) -> float:
    phase = _phase_at(measured, time)
    return phase.back_at or 0.0 if phase else 0.0
