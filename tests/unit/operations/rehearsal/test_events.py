"""Events of users who allow analytics and of users who opt out, sent to a fake fleet."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.message import Message
from http.client import HTTPMessage
from typing import Any, cast

import gevent
import pytest

from app.core.errors import Unavailable
from app.operations.rehearsal.events import BATCH_SIZE, MAX_PAUSE_SECONDS, EventLoad, OptOutLoad
from app.operations.rehearsal.http_client import HttpResponse
from app.operations.rehearsal.load import RecordingClient
from app.operations.rehearsal.users import RehearsalUser

ADA = RehearsalUser(1, "ada@example.org", "password", cookie="session=a")
FENCED_AT = datetime(2026, 11, 26, 20, tzinfo=UTC)


class FakeFleet:
    """The opt-out of one user. `refused` maps HTTP methods to an error status, or to None for no response."""

    def __init__(self, *, refused: dict[str, int | None] | None = None, fails_open: bool = False) -> None:
        self._refused = refused or {}
        self._fails_open = fails_open
        self.open = True
        self.requested: list[str] = []
        self.sent: dict[bool, set[str]] = {True: set(), False: set()}  # whether it was sent before the opt-out

    def request(self, method: str, _path: str, _user: RehearsalUser, *, fresh: bool = True, **body: Any) -> HttpResponse | None:
        self.requested.append(method)
        gevent.sleep(0.005)
        if method == "POST":
            self.sent[self.open] |= {item["id"] for item in body["events"]}
        if method in self._refused:
            status = self._refused[method]
            return None if status is None else response(status)
        if method == "POST":
            is_accepted = self.open or self._fails_open
            return response(202, accepted=len(body["events"]) if is_accepted else 0, rejected=[], opted_out=not is_accepted)
        self.open = method == "DELETE"
        return response(200, opted_out=not self.open, fenced_at=None if self.open else FENCED_AT.isoformat())


def response(status: int, **body: Any) -> HttpResponse:
    return HttpResponse(status, cast(HTTPMessage, Message()), json.dumps(body).encode())


def client(fleet: FakeFleet) -> RecordingClient:
    return cast(RecordingClient, fleet)


def no_events(_user_id: int) -> dict[str, datetime]:
    return {}


def test_events_are_sent_in_batches_with_unique_ids() -> None:
    fleet = FakeFleet()
    events = EventLoad(client(fleet), [ADA])
    for number in range(3):
        events.send(number)
    assert [batch.accepted for batch in events.sent] == [True] * 3
    assert {event_id for batch in events.sent for event_id in batch.ids} == fleet.sent[True]
    assert len(fleet.sent[True]) == 3 * BATCH_SIZE


@pytest.mark.parametrize("status", [None, 502, 503])
def test_batch_without_a_valid_response_is_neither_accepted_nor_refused(status: int | None) -> None:
    events = EventLoad(client(FakeFleet(refused={"POST": status})), [ADA])
    events.send(0)
    assert [batch.accepted for batch in events.sent] == [None]


@pytest.mark.parametrize("fails_open", [False, True])
def test_user_opts_out_while_sending_and_continues_to_send(fails_open: bool) -> None:
    fleet = FakeFleet(fails_open=fails_open)
    opt_outs = OptOutLoad(client(fleet), [ADA], lambda user_id: {f"of {user_id}": FENCED_AT})
    opt_outs.take_turn(0)
    (opt_out,) = opt_outs.opt_outs
    assert (opt_out.confirmed, opt_out.fenced_at, opt_out.stored) == (True, FENCED_AT, {"of 1": FENCED_AT})
    assert {batch.accepted for batch in opt_out.after} == {fails_open}
    assert {batch.accepted for batch in opt_out.before} >= {True}
    before, after = ({event_id for batch in batches for event_id in batch.ids} for batches in (opt_out.before, opt_out.after))
    assert before >= fleet.sent[True]
    assert after <= fleet.sent[False]
    assert before | after == fleet.sent[True] | fleet.sent[False]


def test_user_opts_in_again_before_the_next_opt_out() -> None:
    fleet = FakeFleet()
    opt_outs = OptOutLoad(client(fleet), [ADA], no_events)
    for number in range(2):
        opt_outs.take_turn(number)
    assert [method for method in fleet.requested if method != "POST"] == ["DELETE", "PUT"] * 2
    assert all({batch.accepted for batch in opt_out.before} >= {True} for opt_out in opt_outs.opt_outs)


@pytest.mark.parametrize("status", [None, 503])
def test_turn_ends_if_the_opt_in_fails(status: int | None) -> None:
    fleet = FakeFleet(refused={"DELETE": status})
    opt_outs = OptOutLoad(client(fleet), [ADA], no_events)
    opt_outs.take_turn(0)
    assert (opt_outs.opt_outs, fleet.requested) == ([], ["DELETE"])


@pytest.mark.parametrize("status", [None, 503])
def test_opt_out_without_a_valid_response_is_not_confirmed(status: int | None) -> None:
    opt_outs = OptOutLoad(client(FakeFleet(refused={"PUT": status})), [ADA], no_events)
    opt_outs.take_turn(0)
    (opt_out,) = opt_outs.opt_outs
    assert (opt_out.confirmed, opt_out.stored, opt_out.after) == (False, None, [])


def test_stored_events_are_unknown_if_sql_is_unavailable() -> None:
    def unavailable(_user_id: int) -> dict[str, datetime]:
        raise Unavailable("The database does not answer.")

    opt_outs = OptOutLoad(client(FakeFleet()), [ADA], unavailable)
    opt_outs.take_turn(0)
    assert [(opt_out.confirmed, opt_out.stored) for opt_out in opt_outs.opt_outs] == [(True, None)]


def test_killed_turn_sends_nothing_more() -> None:
    fleet = FakeFleet()
    turn = gevent.spawn(OptOutLoad(client(fleet), [ADA], no_events).take_turn, 0)
    while "POST" not in fleet.requested:
        gevent.sleep(0.001)
    turn.kill()
    count = len(fleet.requested)
    gevent.sleep(2 * MAX_PAUSE_SECONDS)
    assert len(fleet.requested) == count


def test_turn_in_progress_is_not_started_again() -> None:
    fleet = FakeFleet()
    opt_outs = OptOutLoad(client(fleet), [ADA], no_events)
    gevent.joinall([gevent.spawn(opt_outs.take_turn, number) for number in range(3)])
    assert fleet.requested.count("PUT") == len(opt_outs.opt_outs) == 1
