"""Each line of the report card, just below and just above its limit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.operations.rehearsal.checks import Status, has_too_many
from app.operations.rehearsal.machine import MachineLoad
from app.operations.rehearsal.measurements import (
    DrainSettings,
    EventBatch,
    Measurements,
    ObservedBalance,
    ObservedStop,
    OptOut,
    RehearsalPhase,
    ReportedStop,
    SentRequest,
    SocketOutage,
    SocketRecord,
    StoredEvents,
)
from app.operations.rehearsal.plan import REDIS_RESTART, ROLLING_RESTART, SIGKILL
from app.operations.rehearsal.report import as_data, as_text, check, verdict
from app.operations.rehearsal.stop_checks import peak

USER = 7
SETTINGS = DrainSettings(drain_rate=100, shutdown_delay=2, shutdown_timeout=30)
KILLED_AT, DOWN_AT, BACK_AT = 105.0, 203.0, 206.0
FENCED_AT = datetime(2026, 11, 26, 20, tzinfo=UTC)


def steady(started: float, ended: float) -> list[SentRequest]:
    """Ten requests a second with a response time of 10 ms."""
    return [SentRequest(started + number / 10, 0.01, "GET", 200, USER) for number in range(int((ended - started) * 10))]


@pytest.fixture
def measured() -> Measurements:
    """A green rehearsal; each test changes one measurement."""
    result = Measurements("http://127.0.0.1:8080", 3, SETTINGS)
    result.phases = [
        RehearsalPhase(ROLLING_RESTART, 0, 100),
        RehearsalPhase(SIGKILL, 100, 200, killed_at=KILLED_AT),
        RehearsalPhase(REDIS_RESTART, 200, 300, down_at=DOWN_AT, back_at=BACK_AT),
    ]
    result.requests = steady(0, 300)
    result.accepted = {USER: {seq: float(seq) for seq in range(1, 291)}}
    result.sockets = [SocketRecord(USER, [(at + 0.1, seq) for seq, at in result.accepted[USER].items()], connected=True)]
    result.stops = [ObservedStop("instance-1", 10, 14, 18, 10.1, closings=[12 + number / 100 for number in range(40)])]
    result.logouts = 50
    result.events = [EventBatch(["a1", "a2"], accepted=True), EventBatch(["b1", "b2"], accepted=None)]
    result.opt_outs = [
        OptOut(
            before=[EventBatch(["c1", "c2"], accepted=True)],
            after=[EventBatch(["d1", "d2"], accepted=False)],
            confirmed=True,
            fenced_at=FENCED_AT,
            stored={"c1": FENCED_AT},  # c2 was discarded because of the opt-out
        )
    ]
    result.stored_events = StoredEvents({"a1": 1, "a2": 1, "b1": 1, "c1": 1}, beyond_fences=set(), waiting=0)
    return result


def is_red(measured: Measurements, name: str) -> bool:
    """Return whether the line with that name is red. No other line may be red."""
    red = [result.name for result in check(measured) if result.status == Status.RED]
    assert red in ([], [name]), red
    return bool(red)


def stopped(measured: Measurements, **changes: object) -> Measurements:
    measured.stops = [replace(measured.stops[0], **changes)]  # type: ignore[arg-type]
    return measured


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([105, 105, 0], True), ([77, 77, 56], False), ([30, 30, 0], False), ([58, 30, 30], False), ([60, 30, 30], True)],
)
def test_instance_has_too_many_sockets_above_both_thresholds(counts: list[int], expected: bool) -> None:
    assert has_too_many({str(number): count for number, count in enumerate(counts)}) is expected


def test_restarted_instance_has_to_get_its_share_of_the_sockets(measured: Measurements) -> None:
    measured.balance = ObservedBalance("instance-3", {"instance-1": 70, "instance-2": 71, "instance-3": 69}, 4.2)
    assert not is_red(measured, "balance")
    assert "4.2 s later" in as_text(measured, check(measured))
    measured.balance = replace(measured.balance, seconds=None)
    assert is_red(measured, "balance")


def test_rehearsal_without_problems_is_green(measured: Measurements) -> None:
    assert verdict(check(measured)) == Status.GREEN
    assert "GREEN" in as_text(measured, check(measured))


def test_interrupted_rehearsal_is_red_and_reports_the_reason(measured: Measurements) -> None:
    measured.interrupted = "instance-2 did not become ready again"
    assert is_red(measured, "rehearsal")
    assert "instance-2 did not become ready again" in as_text(measured, check(measured))


def test_rehearsal_without_a_phase_reports_only_the_reason() -> None:
    (result,) = check(
        Measurements("http://127.0.0.1:8080", 3, SETTINGS, interrupted="could not sign in: the load balancer answered 502")
    )
    assert (result.ok, result.text) == (False, "could not sign in: the load balancer answered 502")


@pytest.mark.parametrize(("stall", "expected"), [(0.9, Status.GREEN), (1.1, Status.NOT_JUDGED)])
def test_rehearsal_with_a_long_stall_of_the_load_generator_is_not_judged(
    measured: Measurements, stall: float, expected: Status
) -> None:
    measured.phases[0].load = MachineLoad(stall)
    assert verdict(check(measured)) == expected


@pytest.mark.parametrize("status", [0, 403, 404, 500, 502, 503, 504])
def test_one_failed_request_is_red(measured: Measurements, status: int) -> None:
    measured.requests.append(SentRequest(50, 0.01, "POST", status, USER, may_retry=True))
    assert is_red(measured, "requests")
    (result,) = [result for result in check(measured) if result.name == "requests"]
    assert f"3,001 sent, 1 failed (1 x POST {status or 'no response'}, rolling restart)" in result.text


def test_rehearsal_without_answered_requests_is_red(measured: Measurements) -> None:
    measured.requests = [SentRequest(50, 0.01, "GET", 401, USER)]
    assert {"requests", "longest gap"} <= {result.name for result in check(measured) if not result.ok}


@pytest.mark.parametrize(
    ("started", "seconds", "stall", "red"),
    [
        (KILLED_AT - 0.1, 0.2, 0, False),  # it was in flight
        (KILLED_AT + 0.4, 0.1, 0, False),  # the load balancer may have sent it to the dead instance
        (KILLED_AT + 0.6, 0.1, 0, True),
        (KILLED_AT + 0.6, 0.1, 0.2, False),  # the signal may have been sent later
        (KILLED_AT - 0.2, 0.1, 0, True),  # it had failed before the SIGKILL
    ],
)
def test_only_requests_in_flight_at_the_sigkill_are_excused(
    measured: Measurements, started: float, seconds: float, stall: float, red: bool
) -> None:
    measured.phases[1].load = MachineLoad(stall)
    measured.requests.append(SentRequest(started, seconds, "POST", 502, USER))
    assert is_red(measured, "requests") is red


@pytest.mark.parametrize(("count", "red"), [(20, False), (21, True)])
def test_number_of_requests_cut_off_by_a_sigkill_is_limited(measured: Measurements, count: int, red: bool) -> None:
    measured.requests += [SentRequest(KILLED_AT - 0.1, 0.2, "POST", 502, USER)] * count
    assert is_red(measured, "cut off") is red


@pytest.mark.parametrize(
    ("started", "status", "may_retry", "red"),
    [
        (DOWN_AT + 0.1, 503, True, False),
        (BACK_AT + 4.8, 503, True, False),
        (BACK_AT + 5.2, 503, True, True),
        (DOWN_AT - 0.1, 503, True, True),
        (DOWN_AT + 0.1, 503, False, True),
        (DOWN_AT + 0.1, 500, True, True),
    ],
)
def test_503_with_retry_after_is_excused_only_while_redis_is_unavailable(
    measured: Measurements, started: float, status: int, may_retry: bool, red: bool
) -> None:
    measured.requests.append(SentRequest(started, 0.01, "GET", status, USER, may_retry))
    assert is_red(measured, "requests") is red


@pytest.mark.parametrize(("seconds", "stall", "red"), [(1.9, 0, False), (2.1, 0, True), (2.1, 0.3, False)])
def test_slow_response_while_redis_is_unavailable_is_red(measured: Measurements, seconds: float, stall: float, red: bool) -> None:
    measured.phases[2].load = MachineLoad(stall)
    measured.requests.append(SentRequest(DOWN_AT + 0.1, seconds, "GET", 503, USER, may_retry=True))
    assert is_red(measured, "slowest answer") is red


@pytest.mark.parametrize(("after", "red"), [(4.9, False), (5.1, True)])
def test_late_503_after_redis_is_back_is_red(measured: Measurements, after: float, red: bool) -> None:
    measured.requests.append(SentRequest(BACK_AT + 4.5, after - 4.5, "GET", 503, USER, may_retry=True))
    assert is_red(measured, "recovery") is red


def test_redis_that_was_not_restarted_is_red(measured: Measurements) -> None:
    measured.phases[2].back_at = None
    assert is_red(measured, "redis")


@pytest.mark.parametrize(("gap", "stall", "red"), [(0.9, 0, False), (1.1, 0, True), (1.1, 0.2, False)])
def test_long_gap_between_successful_requests_is_red(measured: Measurements, gap: float, stall: float, red: bool) -> None:
    measured.phases[0].load = MachineLoad(stall)
    measured.requests = [*steady(0, 50), *steady(50 - 0.1 + gap, 300)]
    assert is_red(measured, "longest gap") is red


def test_gap_while_redis_is_unavailable_is_excused(measured: Measurements) -> None:
    measured.requests = [*steady(0, DOWN_AT), *steady(BACK_AT, 300)]
    assert verdict(check(measured)) == Status.GREEN


@pytest.mark.parametrize("spoil", ["lost", "duplicated", "out of order", "none"])
def test_lost_duplicated_or_disordered_notification_is_red(measured: Measurements, spoil: str) -> None:
    received = measured.sockets[0].received
    if spoil == "lost":
        del received[5]
    elif spoil == "duplicated":
        received.insert(5, received[5])
    elif spoil == "out of order":
        received[5:7] = [(received[5][0], received[6][1]), (received[6][0], received[5][1])]
    else:
        measured.accepted, measured.sockets[0].received = {}, []
    assert is_red(measured, "notifications")
    (result,) = [result for result in check(measured) if result.name == "notifications"]
    assert spoil == "none" or f"1 {spoil}" in result.text


def test_received_notification_without_confirmed_send_is_allowed(measured: Measurements) -> None:
    del measured.accepted[USER][290]
    assert verdict(check(measured)) == Status.GREEN


@pytest.mark.parametrize(("seconds", "red"), [(9.9, False), (10.1, True)])
def test_late_notification_is_red(measured: Measurements, seconds: float, red: bool) -> None:
    measured.sockets[0].received[50:] = [(max(at, 51 + seconds), seq) for at, seq in measured.sockets[0].received[50:]]
    assert is_red(measured, "late") is red


def test_notification_stored_without_redis_is_due_when_redis_is_back(measured: Measurements) -> None:
    measured.accepted[USER].update({204: DOWN_AT, 205: DOWN_AT})
    measured.sockets[0].received[203:] = [(max(at, BACK_AT + 4.9), seq) for at, seq in measured.sockets[0].received[203:]]
    assert verdict(check(measured)) == Status.GREEN


def with_rows(measured: Measurements, **rows: int) -> Measurements:
    assert measured.stored_events
    measured.stored_events = replace(measured.stored_events, rows=measured.stored_events.rows | rows)
    return measured


def test_lost_or_duplicated_event_is_red(measured: Measurements) -> None:
    assert is_red(with_rows(measured, a1=2), "events")
    del with_rows(measured, a1=1).stored_events.rows["a2"]  # type: ignore[union-attr]
    assert is_red(measured, "events")
    (result,) = [result for result in check(measured) if result.name == "events"]
    assert result.text == "2 accepted from users who allow analytics: 1 lost, 0 duplicated"


def test_events_that_are_not_stored_yet_are_reported(measured: Measurements) -> None:
    measured.stored_events = StoredEvents({}, set(), waiting=2)
    assert is_red(measured, "events")
    assert "2 lost, 0 duplicated; 2 not stored yet" in as_text(measured, check(measured))


def test_event_refused_without_an_opt_out_is_lost(measured: Measurements) -> None:
    measured.events.append(EventBatch(["e1"], accepted=False))
    assert is_red(measured, "events")


def test_event_without_a_response_may_be_stored_once_but_not_twice(measured: Measurements) -> None:
    assert not is_red(with_rows(measured, b2=1), "events")
    assert is_red(with_rows(measured, b2=2), "events")


def test_rehearsal_without_events_is_red(measured: Measurements) -> None:
    measured.events = measured.events[1:]
    assert is_red(measured, "events")


def test_event_accepted_after_an_opt_out_is_red(measured: Measurements) -> None:
    measured.opt_outs[0].after[0] = EventBatch(["d1", "d2"], accepted=None)
    assert not is_red(measured, "opt-outs")
    measured.opt_outs[0].after[0] = EventBatch(["d1", "d2"], accepted=True)
    assert is_red(measured, "opt-outs")
    assert "1 users opted out while they sent events: 2 accepted and 0 stored afterwards" in as_text(measured, check(measured))


@pytest.mark.parametrize("event_id", ["c2", "d1"])  # c2 was queued before the opt-out, d1 was sent after it
def test_event_stored_after_an_opt_out_is_red(measured: Measurements, event_id: str) -> None:
    assert is_red(with_rows(measured, **{event_id: 1}), "opt-outs")
    assert "0 accepted and 1 stored afterwards" in as_text(measured, check(measured))


@pytest.mark.parametrize(("later", "red"), [(0, False), (1, True)])
def test_event_that_happened_after_the_opt_out_is_red(measured: Measurements, later: int, red: bool) -> None:
    measured.opt_outs[0].stored = {"c1": FENCED_AT + timedelta(milliseconds=later)}
    assert is_red(measured, "opt-outs") is red


def test_event_recorded_by_the_application_after_an_opt_out_is_red(measured: Measurements) -> None:
    measured.stored_events = replace(measured.stored_events, beyond_fences={"page view"})  # type: ignore[type-var]
    assert is_red(measured, "opt-outs")


def test_unconfirmed_opt_out_is_ignored(measured: Measurements) -> None:
    measured.opt_outs.append(OptOut(before=[EventBatch(["f1"], accepted=True)]))
    assert not is_red(with_rows(measured, f1=1), "opt-outs")
    measured.opt_outs = measured.opt_outs[1:]
    assert is_red(measured, "opt-outs")


def test_opt_out_without_a_query_of_sql_is_checked_by_responses_only(measured: Measurements) -> None:
    measured.opt_outs[0].stored = None
    assert not is_red(with_rows(measured, c2=1), "opt-outs")


def test_interrupted_rehearsal_without_stored_events_has_no_event_lines(measured: Measurements) -> None:
    measured.stored_events, measured.interrupted = None, "Redis is not available"
    assert {"events", "opt-outs"} & {result.name for result in check(measured)} == set()


def test_signed_out_user_counts_once(measured: Measurements) -> None:
    measured.requests += [SentRequest(50, 0.01, "GET", 401, USER)] * 3
    measured.sockets[0].signed_out = True
    assert is_red(measured, "signed out")
    (result,) = [result for result in check(measured) if result.name == "signed out"]
    assert result.text == "1 of 1 users lost their session"


def test_session_that_is_valid_after_logout_is_red(measured: Measurements) -> None:
    measured.revived = 1
    assert is_red(measured, "logouts")


@pytest.mark.parametrize(("late", "seconds", "red"), [(1, 60, False), (2, 8.4, False), (2, 8.6, True)])
def test_95_percent_of_the_sockets_must_reconnect_in_time(measured: Measurements, late: int, seconds: float, red: bool) -> None:
    back_at = [51.0] * (20 - late) + [50 + seconds] * late
    measured.sockets[0].outages = [SocketOutage(50, "instance-1", at) for at in back_at]
    assert is_red(measured, "reconnections") is red


def test_bystander_may_reconnect_late(measured: Measurements) -> None:
    measured.sockets.append(
        SocketRecord(USER + 1, is_bystander=True, outages=[SocketOutage(50, "instance-1", 70)], connected=True)
    )
    assert not is_red(measured, "reconnections")
    measured.sockets[-1].connected = False
    assert is_red(measured, "reconnections")


def test_socket_that_does_not_reconnect_is_red(measured: Measurements) -> None:
    measured.sockets[0].connected = False
    assert is_red(measured, "reconnections")


@pytest.mark.parametrize(("unready_at", "red"), [(11.9, False), (12.1, True), (None, True)])
def test_readiness_must_fail_before_any_socket_is_closed(measured: Measurements, unready_at: float | None, red: bool) -> None:
    assert is_red(stopped(measured, unready_at=unready_at), "instance-1 unready") is red


def test_readiness_must_fail_before_exit_if_there_are_no_sockets(measured: Measurements) -> None:
    assert not is_red(stopped(measured, closings=[]), "instance-1 unready")
    assert is_red(stopped(measured, closings=[], unready_at=None), "instance-1 unready")


@pytest.mark.parametrize(("unready_at", "red"), [(10.3, False), (10.5, True), (None, True)])
def test_without_a_delay_readiness_must_fail_before_the_last_socket_is_closed(
    measured: Measurements, unready_at: float | None, red: bool
) -> None:
    measured.settings = replace(SETTINGS, shutdown_delay=0)
    closings = [10 + number / 100 for number in range(40)]
    assert is_red(stopped(measured, closings=closings, unready_at=unready_at), "instance-1 unready") is red


@pytest.mark.parametrize("count", [0, 20])
def test_readiness_is_not_checked_if_the_stop_is_too_short(measured: Measurements, count: int) -> None:
    measured.settings = replace(SETTINGS, shutdown_delay=0)
    closings = [10 + number / 100 for number in range(count)]
    assert not is_red(stopped(measured, closings=closings, unready_at=None), "instance-1 unready")


@pytest.mark.parametrize(
    ("count", "stall", "red"),
    [(62, 0, False), (64, 0, True), (77, 0.1, False), (79, 0.1, True)],
)
def test_sockets_closed_faster_than_the_drain_rate_are_red(measured: Measurements, count: int, stall: float, red: bool) -> None:
    assert is_red(stopped(measured, closings=[12.0] * count, load=MachineLoad(stall)), "instance-1 drain") is red


def test_short_timeout_allows_a_higher_drain_rate(measured: Measurements) -> None:
    measured.settings = DrainSettings(drain_rate=1, shutdown_delay=2, shutdown_timeout=8)
    assert not is_red(stopped(measured, closings=[12 + number / 10 for number in range(30)], exited_at=15.5), "instance-1 drain")


@pytest.mark.parametrize(("seconds", "red"), [(7.3, False), (7.5, True)])
def test_slow_stop_is_red(measured: Measurements, seconds: float, red: bool) -> None:
    assert is_red(stopped(measured, exited_at=10 + seconds), "instance-1 stop") is red


@pytest.mark.parametrize(("seconds", "red"), [(5.4, False), (5.6, True)])
def test_stop_aborted_by_a_short_timeout_is_red(measured: Measurements, seconds: float, red: bool) -> None:
    measured.settings = replace(SETTINGS, shutdown_timeout=8)
    assert is_red(stopped(measured, exited_at=10 + seconds), "instance-1 stop") is red


@pytest.mark.parametrize(
    ("instance", "kind", "red"),
    [
        ("instance-1", "clean", False),
        ("instance-2", "crashed", False),  # the rehearsal killed it
        ("instance-2-w1", "crashed", False),
        ("instance-1", "crashed", True),
        ("instance-1", "forced", True),
        ("instance-2", "forced", True),
    ],
)
def test_recorded_stop_that_is_not_clean_is_red(measured: Measurements, instance: str, kind: str, red: bool) -> None:
    measured.phases[1].killed = "instance-2"
    measured.reported_stops = [
        ReportedStop("instance-1", "clean", "clean in 3.1 s"),
        ReportedStop(instance, kind, "1 request cut off"),
    ]
    assert is_red(measured, "recorded stops") is red
    assert ("1 request cut off" in as_text(measured, check(measured))) is red


def test_unknown_stops_are_red(measured: Measurements) -> None:
    measured.reported_stops = None
    assert is_red(measured, "recorded stops")


BUSY = MachineLoad(slowdown=2.1)


def status_of(measured: Measurements, name: str) -> Status:
    (status,) = [result.status for result in check(measured) if result.name == name]
    return status


def exceed_limits_of_time(measured: Measurements) -> Measurements:
    """Change the measurements so that every line about time is beyond its limit, and no other."""
    measured.requests += [
        SentRequest(50, 10.0, "POST", 0, USER),
        SentRequest(51, 1, "POST", 503, USER, may_retry=True),
        SentRequest(52, 5, "GET", 504, USER),
        *[SentRequest(KILLED_AT - 0.1, 0.2, "POST", 502, USER)] * 21,
        SentRequest(DOWN_AT + 0.1, 11, "GET", 503, USER, may_retry=True),
    ]
    measured.requests = [request for request in measured.requests if not 20 < request.ended < 22]
    received = measured.sockets[0].received
    received[50:] = [(max(at, 62), seq) for at, seq in received[50:]]
    measured.sockets[0].outages = [SocketOutage(50, "instance-1", 60)]
    measured.balance = ObservedBalance("instance-3", {"instance-1": 70, "instance-2": 0}, None)
    measured.reported_stops = [ReportedStop("instance-1", "forced", "forced after 30 s")]
    return stopped(measured, unready_at=None, closings=[12.0] * 70, exited_at=20)


LINES_ABOUT_TIME = {
    "requests",
    "cut off",
    "longest gap",
    "slowest answer",
    "recovery",
    "late",
    "reconnections",
    "balance",
    "instance-1 unready",
    "instance-1 drain",
    "instance-1 stop",
    "recorded stops",
}


@pytest.mark.parametrize(("load", "expected"), [(MachineLoad(slowdown=1.9), Status.RED), (BUSY, Status.NOT_JUDGED)])
def test_lines_about_time_are_not_judged_on_a_busy_machine(measured: Measurements, load: MachineLoad, expected: Status) -> None:
    exceed_limits_of_time(measured)
    measured.phases = [replace(phase, load=load) for phase in measured.phases]
    stopped(measured, load=load)
    results = check(measured)
    assert {result.name for result in results if result.status == expected} == LINES_ABOUT_TIME
    assert verdict(results) == expected


def test_loss_on_a_busy_machine_is_red(measured: Measurements) -> None:
    exceed_limits_of_time(measured)
    measured.phases = [replace(phase, load=BUSY) for phase in measured.phases]
    stopped(measured, load=BUSY)
    del measured.sockets[0].received[5]
    measured.revived = 1
    measured.requests.append(SentRequest(50, 0.1, "POST", 502, USER))
    measured.reported_stops = [ReportedStop("instance-2", "crashed", "1 request cut off")]
    results = check(measured)
    assert {result.name for result in results if result.status == Status.RED} == {
        "notifications",
        "logouts",
        "requests",
        "recorded stops",
    }
    assert verdict(results) == Status.RED


def test_limit_exceeded_in_a_quiet_phase_is_red_although_another_phase_was_busy(measured: Measurements) -> None:
    measured.phases[1].load = BUSY
    measured.requests = [
        request for request in measured.requests if not 20 < request.ended < 22 and not 120 < request.ended < 122
    ]
    assert status_of(measured, "longest gap") == Status.RED


def test_rehearsal_that_ended_early_on_a_busy_machine_is_not_judged() -> None:
    measured = Measurements("http://127.0.0.1:8080", 3, SETTINGS, interrupted="could not sign in", load=BUSY)
    assert verdict(check(measured)) == Status.NOT_JUDGED


def test_report_explains_why_a_line_is_not_judged(measured: Measurements) -> None:
    measured.requests = [request for request in measured.requests if not 20 < request.ended < 22]
    measured.phases[0].load = BUSY
    text = as_text(measured, check(measured))
    assert "300 s: NOT JUDGED" in text
    assert "BUSY  longest gap" in text
    assert "not judged: the machine is too busy (control process 2.1 x, stall 0.00 s)" in text
    data = as_data(measured, check(measured))
    assert data["verdict"] == "not judged"
    assert [line["name"] for line in data["lines"] if line["status"] == "not judged"] == ["longest gap"]


def test_text_explains_only_red_lines(measured: Measurements) -> None:
    measured.revived = 2
    measured.remarks = ["Redis was not restarted: --redis-restart was not given"]
    text = as_text(measured, check(measured))
    assert text.splitlines()[0] == "Rehearsal of http://127.0.0.1:8080, 3 instances, 300 s: RED"
    assert text.count("->") == 1
    assert "50 sessions ended with requests in flight, 2 became valid again" in text
    assert text.endswith("Redis was not restarted: --redis-restart was not given")


def test_json_has_the_same_lines(measured: Measurements) -> None:
    measured.revived = 2
    data = json.loads(json.dumps(as_data(measured, check(measured))))
    assert (data["verdict"], data["seconds"]) == ("red", 300)
    assert [result["name"] for result in data["lines"] if not result["ok"]] == ["logouts"]


def test_peak_considers_every_window() -> None:
    assert peak([], 1) == 0
    assert peak([0.9, 1.1, 0.5, 2.0, 1.4], 1) == 4
    assert peak([0, 1, 2], 1) == 1
