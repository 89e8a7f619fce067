"""Each line of the report card, on both sides of its limit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.operations.rehearsal.measurements import (
    Accounting,
    Batch,
    Measurements,
    No,
    Outage,
    Phase,
    Request,
    Settings,
    Socket,
    Stop,
    ToldStop,
)
from app.operations.rehearsal.plan import REDIS_RESTART, ROLLING_RESTART, SIGKILL
from app.operations.rehearsal.report import as_data, as_text, is_green, judge
from app.operations.rehearsal.stops import peak

USER = 7
SETTINGS = Settings(drain_rate=100, shutdown_delay=2, shutdown_timeout=30)
KILLED_AT, DOWN_AT, BACK_AT = 105.0, 203.0, 206.0
FENCED_AT = datetime(2026, 11, 26, 20, tzinfo=UTC)


def steady(started: float, ended: float) -> list[Request]:
    """Ten a second, served at once."""
    return [Request(started + number / 10, 0.01, "GET", 200, USER) for number in range(int((ended - started) * 10))]


@pytest.fixture
def measured() -> Measurements:
    """A flawless rehearsal, for each test to spoil in one point."""
    result = Measurements("http://127.0.0.1:8080", 3, SETTINGS)
    result.phases = [
        Phase(ROLLING_RESTART, 0, 100),
        Phase(SIGKILL, 100, 200, killed_at=KILLED_AT),
        Phase(REDIS_RESTART, 200, 300, down_at=DOWN_AT, back_at=BACK_AT),
    ]
    result.requests = steady(0, 300)
    result.accepted = {USER: {seq: float(seq) for seq in range(1, 291)}}
    result.sockets = [Socket(USER, [(at + 0.1, seq) for seq, at in result.accepted[USER].items()], connected=True)]
    result.stops = [Stop("instance-1", 10, 14, 18, 10.1, closings=[12 + number / 100 for number in range(40)])]
    result.logouts = 50
    result.events = [Batch(["a1", "a2"], taken=True), Batch(["b1", "b2"], taken=None)]
    result.noes = [
        No(
            before=[Batch(["c1", "c2"], taken=True)],
            after=[Batch(["d1", "d2"], taken=False)],
            answered=True,
            fenced_at=FENCED_AT,
            stored={"c1": FENCED_AT},  # c2 was fenced off
        )
    ]
    result.accounting = Accounting({"a1": 1, "a2": 1, "b1": 1, "c1": 1}, beyond_fences=set(), waiting=0)
    return result


def is_red(measured: Measurements, name: str) -> bool:
    """Whether that line is; and no other one may be."""
    red = [line.name for line in judge(measured) if not line.ok]
    assert red in ([], [name]), red
    return bool(red)


def stopped(measured: Measurements, **changes: object) -> Measurements:
    measured.stops = [replace(measured.stops[0], **changes)]  # type: ignore[arg-type]
    return measured


def test_a_flawless_rehearsal_is_green(measured: Measurements) -> None:
    assert is_green(judge(measured))
    assert "GREEN" in as_text(measured, judge(measured))


def test_a_rehearsal_that_ended_early_is_red_and_says_why(measured: Measurements) -> None:
    measured.interrupted = "instance-2 did not become ready again"
    assert is_red(measured, "rehearsal")
    assert "instance-2 did not become ready again" in as_text(measured, judge(measured))


def test_one_that_never_began_says_nothing_else() -> None:
    (line,) = judge(
        Measurements("http://127.0.0.1:8080", 3, SETTINGS, interrupted="could not sign in: the balancer answered 502")
    )
    assert (line.ok, line.text) == (False, "could not sign in: the balancer answered 502")


@pytest.mark.parametrize(("stall", "red"), [(0.9, False), (1.1, True)])
def test_a_load_that_stood_still_measured_itself(measured: Measurements, stall: float, red: bool) -> None:
    measured.phases[0].stall = stall
    assert is_red(measured, "own load") is red


@pytest.mark.parametrize("status", [0, 403, 404, 500, 502, 503, 504])
def test_any_request_that_fails_is_one_too_many(measured: Measurements, status: int) -> None:
    measured.requests.append(Request(50, 0.01, "POST", status, USER, may_retry=True))
    assert is_red(measured, "requests")
    (line,) = [line for line in judge(measured) if line.name == "requests"]
    assert f"3,001 sent, 1 failed (1 x POST {status or 'no answer'}, rolling restart)" in line.text


def test_no_requests_prove_nothing(measured: Measurements) -> None:
    measured.requests = [Request(50, 0.01, "GET", 401, USER)]
    assert {"requests", "longest gap"} <= {line.name for line in judge(measured) if not line.ok}


@pytest.mark.parametrize(
    ("started", "seconds", "red"),
    [
        (KILLED_AT - 0.1, 0.2, False),  # it was under way
        (KILLED_AT + 0.4, 0.1, False),  # it may have reached the dead instance before anybody noticed
        (KILLED_AT + 0.6, 0.1, True),
        (KILLED_AT - 0.2, 0.1, True),  # it had failed before
    ],
)
def test_what_a_sigkill_cuts_off_is_excused_and_no_more(
    measured: Measurements, started: float, seconds: float, red: bool
) -> None:
    measured.requests.append(Request(started, seconds, "POST", 502, USER))
    assert is_red(measured, "requests") is red


@pytest.mark.parametrize(("count", "red"), [(20, False), (21, True)])
def test_a_sigkill_cuts_off_few(measured: Measurements, count: int, red: bool) -> None:
    measured.requests += [Request(KILLED_AT - 0.1, 0.2, "POST", 502, USER)] * count
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
def test_without_redis_a_request_is_told_to_come_again(
    measured: Measurements, started: float, status: int, may_retry: bool, red: bool
) -> None:
    measured.requests.append(Request(started, 0.01, "GET", status, USER, may_retry))
    assert is_red(measured, "requests") is red


@pytest.mark.parametrize(("seconds", "stall", "red"), [(1.9, 0, False), (2.1, 0, True), (2.1, 0.3, False)])
def test_without_redis_nobody_is_kept_waiting(measured: Measurements, seconds: float, stall: float, red: bool) -> None:
    measured.phases[2].stall = stall
    measured.requests.append(Request(DOWN_AT + 0.1, seconds, "GET", 503, USER, may_retry=True))
    assert is_red(measured, "slowest answer") is red


@pytest.mark.parametrize(("after", "red"), [(4.9, False), (5.1, True)])
def test_all_is_as_before_soon_after_redis_is_back(measured: Measurements, after: float, red: bool) -> None:
    measured.requests.append(Request(BACK_AT + 4.5, after - 4.5, "GET", 503, USER, may_retry=True))
    assert is_red(measured, "recovery") is red


def test_a_redis_that_was_not_restarted_proves_nothing(measured: Measurements) -> None:
    measured.phases[2].back_at = None
    assert is_red(measured, "redis")


@pytest.mark.parametrize(("gap", "stall", "red"), [(0.9, 0, False), (1.1, 0, True), (1.1, 0.2, False)])
def test_somebody_is_served_all_the_time(measured: Measurements, gap: float, stall: float, red: bool) -> None:
    measured.phases[0].stall = stall
    measured.requests = [*steady(0, 50), *steady(50 - 0.1 + gap, 300)]
    assert is_red(measured, "longest gap") is red


def test_without_redis_nobody_can_be_served(measured: Measurements) -> None:
    measured.requests = [*steady(0, DOWN_AT), *steady(BACK_AT, 300)]
    assert is_green(judge(measured))


@pytest.mark.parametrize("spoil", ["lost", "doubled", "out of order", "none"])
def test_each_socket_hears_each_notification_once_and_in_order(measured: Measurements, spoil: str) -> None:
    heard = measured.sockets[0].heard
    if spoil == "lost":
        del heard[5]
    elif spoil == "doubled":
        heard.insert(5, heard[5])
    elif spoil == "out of order":
        heard[5:7] = [(heard[5][0], heard[6][1]), (heard[6][0], heard[5][1])]
    else:
        measured.accepted, measured.sockets[0].heard = {}, []
    assert is_red(measured, "notifications")
    (line,) = [line for line in judge(measured) if line.name == "notifications"]
    assert spoil == "none" or f"1 {spoil}" in line.text


def test_a_notification_of_which_the_sender_was_not_told_is_none_too_many(measured: Measurements) -> None:
    del measured.accepted[USER][290]
    assert is_green(judge(measured))


@pytest.mark.parametrize(("seconds", "red"), [(9.9, False), (10.1, True)])
def test_late_notifications(measured: Measurements, seconds: float, red: bool) -> None:
    measured.sockets[0].heard[50:] = [(max(at, 51 + seconds), seq) for at, seq in measured.sockets[0].heard[50:]]
    assert is_red(measured, "late") is red


def test_what_was_stored_without_redis_is_due_when_it_is_back(measured: Measurements) -> None:
    measured.accepted[USER].update({204: DOWN_AT, 205: DOWN_AT})
    measured.sockets[0].heard[203:] = [(max(at, BACK_AT + 4.9), seq) for at, seq in measured.sockets[0].heard[203:]]
    assert is_green(judge(measured))


def with_rows(measured: Measurements, **rows: int) -> Measurements:
    assert measured.accounting
    measured.accounting = replace(measured.accounting, rows=measured.accounting.rows | rows)
    return measured


def test_events_that_were_accepted_are_stored_once(measured: Measurements) -> None:
    assert is_red(with_rows(measured, a1=2), "events")
    del with_rows(measured, a1=1).accounting.rows["a2"]  # type: ignore[union-attr]
    assert is_red(measured, "events")
    (line,) = [line for line in judge(measured) if line.name == "events"]
    assert line.text == "2 accepted of users who let themselves be counted: 1 lost, 0 doubled"


def test_events_that_still_wait_are_told_of(measured: Measurements) -> None:
    measured.accounting = Accounting({}, set(), waiting=2)
    assert is_red(measured, "events")
    assert "2 lost, 0 doubled; 2 still wait" in as_text(measured, judge(measured))


def test_who_has_not_said_no_and_is_refused_loses_events(measured: Measurements) -> None:
    measured.events.append(Batch(["e1"], taken=False))
    assert is_red(measured, "events")


def test_events_without_an_answer_may_be_stored_or_not_but_never_twice(measured: Measurements) -> None:
    assert not is_red(with_rows(measured, b2=1), "events")
    assert is_red(with_rows(measured, b2=2), "events")


def test_no_events_prove_nothing(measured: Measurements) -> None:
    measured.events = measured.events[1:]
    assert is_red(measured, "events")


def test_no_event_is_taken_after_a_no(measured: Measurements) -> None:
    measured.noes[0].after[0] = Batch(["d1", "d2"], taken=None)
    assert not is_red(measured, "opt-outs")
    measured.noes[0].after[0] = Batch(["d1", "d2"], taken=True)
    assert is_red(measured, "opt-outs")
    assert "1 said no in the middle of their events: 2 taken and 0 stored after it" in as_text(measured, judge(measured))


@pytest.mark.parametrize("event_id", ["c2", "d1"])  # one that had waited, one that was sent afterwards
def test_no_event_is_stored_after_a_no(measured: Measurements, event_id: str) -> None:
    assert is_red(with_rows(measured, **{event_id: 1}), "opt-outs")
    assert "0 taken and 1 stored after it" in as_text(measured, judge(measured))


@pytest.mark.parametrize(("later", "red"), [(0, False), (1, True)])
def test_no_event_happened_after_the_fence(measured: Measurements, later: int, red: bool) -> None:
    measured.noes[0].stored = {"c1": FENCED_AT + timedelta(milliseconds=later)}
    assert is_red(measured, "opt-outs") is red


def test_what_the_application_records_by_itself_respects_the_fence_as_well(measured: Measurements) -> None:
    measured.accounting = replace(measured.accounting, beyond_fences={"of the application"})  # type: ignore[type-var]
    assert is_red(measured, "opt-outs")


def test_a_no_that_was_not_answered_proves_nothing(measured: Measurements) -> None:
    measured.noes.append(No(before=[Batch(["f1"], taken=True)]))
    assert not is_red(with_rows(measured, f1=1), "opt-outs")
    measured.noes = measured.noes[1:]
    assert is_red(measured, "opt-outs")


def test_a_no_after_which_sql_was_not_seen_is_judged_by_its_answers(measured: Measurements) -> None:
    measured.noes[0].stored = None
    assert not is_red(with_rows(measured, c2=1), "opt-outs")


def test_without_an_accounting_nothing_is_said_of_events(measured: Measurements) -> None:
    measured.accounting, measured.interrupted = None, "Redis does not answer"
    assert {"events", "opt-outs"} & {line.name for line in judge(measured)} == set()


def test_whoever_is_signed_out_counts_once(measured: Measurements) -> None:
    measured.requests += [Request(50, 0.01, "GET", 401, USER)] * 3
    measured.sockets[0].signed_out = True
    assert is_red(measured, "signed out")
    (line,) = [line for line in judge(measured) if line.name == "signed out"]
    assert line.text == "1 of 1 users"


def test_a_session_that_comes_back_is_one_too_many(measured: Measurements) -> None:
    measured.revived = 1
    assert is_red(measured, "logouts")


@pytest.mark.parametrize(("late", "seconds", "red"), [(1, 60, False), (2, 8.4, False), (2, 8.6, True)])
def test_nearly_all_sockets_come_back_soon(measured: Measurements, late: int, seconds: float, red: bool) -> None:
    back_at = [51.0] * (20 - late) + [50 + seconds] * late
    measured.sockets[0].outages = [Outage(50, "instance-1", at) for at in back_at]
    assert is_red(measured, "reconnections") is red


def test_a_bystander_has_time_to_come_back(measured: Measurements) -> None:
    measured.sockets.append(Socket(USER + 1, is_bystander=True, outages=[Outage(50, "instance-1", 70)], connected=True))
    assert not is_red(measured, "reconnections")
    measured.sockets[-1].connected = False
    assert is_red(measured, "reconnections")


def test_a_socket_that_stays_away_is_one_too_many(measured: Measurements) -> None:
    measured.sockets[0].connected = False
    assert is_red(measured, "reconnections")


@pytest.mark.parametrize(("unready_at", "red"), [(11.9, False), (12.1, True), (None, True)])
def test_readiness_turns_before_the_first_socket_is_closed(measured: Measurements, unready_at: float | None, red: bool) -> None:
    assert is_red(stopped(measured, unready_at=unready_at), "instance-1 unready") is red


def test_without_sockets_readiness_turns_before_the_end(measured: Measurements) -> None:
    assert not is_red(stopped(measured, closings=[]), "instance-1 unready")
    assert is_red(stopped(measured, closings=[], unready_at=None), "instance-1 unready")


@pytest.mark.parametrize(("unready_at", "red"), [(10.3, False), (10.5, True), (None, True)])
def test_without_a_delay_readiness_turns_while_sockets_are_closed(
    measured: Measurements, unready_at: float | None, red: bool
) -> None:
    measured.settings = replace(SETTINGS, shutdown_delay=0)
    closings = [10 + number / 100 for number in range(40)]
    assert is_red(stopped(measured, closings=closings, unready_at=unready_at), "instance-1 unready") is red


@pytest.mark.parametrize("count", [0, 20])
def test_without_a_delay_and_with_few_sockets_there_is_no_time_to_see_it(measured: Measurements, count: int) -> None:
    measured.settings = replace(SETTINGS, shutdown_delay=0)
    closings = [10 + number / 100 for number in range(count)]
    assert not is_red(stopped(measured, closings=closings, unready_at=None), "instance-1 unready")


@pytest.mark.parametrize(
    ("count", "stall", "red"),
    [(62, 0, False), (64, 0, True), (77, 0.1, False), (79, 0.1, True)],
)
def test_sockets_closed_at_once(measured: Measurements, count: int, stall: float, red: bool) -> None:
    assert is_red(stopped(measured, closings=[12.0] * count, stall=stall), "instance-1 drain") is red


def test_a_stop_with_little_time_may_close_them_faster(measured: Measurements) -> None:
    measured.settings = Settings(drain_rate=1, shutdown_delay=2, shutdown_timeout=8)
    assert not is_red(stopped(measured, closings=[12 + number / 10 for number in range(30)], gone_at=15.5), "instance-1 drain")


@pytest.mark.parametrize(("seconds", "red"), [(7.3, False), (7.5, True)])
def test_a_stop_takes_the_delay_the_sockets_and_little_more(measured: Measurements, seconds: float, red: bool) -> None:
    assert is_red(stopped(measured, gone_at=10 + seconds), "instance-1 stop") is red


@pytest.mark.parametrize(("seconds", "red"), [(5.4, False), (5.6, True)])
def test_a_stop_that_was_cut_off_is_seen_with_a_short_timeout_too(measured: Measurements, seconds: float, red: bool) -> None:
    measured.settings = replace(SETTINGS, shutdown_timeout=8)
    assert is_red(stopped(measured, gone_at=10 + seconds), "instance-1 stop") is red


@pytest.mark.parametrize(
    ("instance", "kind", "red"),
    [
        ("instance-1", "clean", False),
        ("instance-2", "crashed", False),  # that one was killed
        ("instance-2-w1", "crashed", False),
        ("instance-1", "crashed", True),
        ("instance-1", "forced", True),
        ("instance-2", "forced", True),
    ],
)
def test_what_instances_tell_of_their_stops(measured: Measurements, instance: str, kind: str, red: bool) -> None:
    measured.phases[1].killed = "instance-2"
    measured.told = [ToldStop("instance-1", "clean", "clean in 3.1 s"), ToldStop(instance, kind, "1 request cut off")]
    assert is_red(measured, "stops as told") is red
    assert ("1 request cut off" in as_text(measured, judge(measured))) is red


def test_the_text_explains_what_is_red_alone(measured: Measurements) -> None:
    measured.revived = 2
    measured.remarks = ["no restart of Redis: --redis-restart was not given"]
    text = as_text(measured, judge(measured))
    assert text.splitlines()[0] == "Rehearsal of http://127.0.0.1:8080, 3 instances, 300 s: RED"
    assert text.count("->") == 1
    assert "50 sessions ended in the middle of their requests, 2 came back" in text
    assert text.endswith("no restart of Redis: --redis-restart was not given")


def test_the_data_say_the_same(measured: Measurements) -> None:
    measured.revived = 2
    data = json.loads(json.dumps(as_data(measured, judge(measured))))
    assert (data["verdict"], data["seconds"]) == ("red", 300)
    assert [line["name"] for line in data["lines"] if not line["ok"]] == ["logouts"]


def test_the_peak_is_of_any_window() -> None:
    assert peak([], 1) == 0
    assert peak([0.9, 1.1, 0.5, 2.0, 1.4], 1) == 4
    assert peak([0, 1, 2], 1) == 1
