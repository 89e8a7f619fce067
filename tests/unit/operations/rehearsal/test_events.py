"""Users who are counted, and users who say no meanwhile, asked of a fleet that is made up."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.message import Message
from http.client import HTTPMessage
from typing import Any, cast

import gevent
import pytest

from app.core.errors import Unavailable
from app.operations.rehearsal.events import BATCH, PAUSE_SECONDS, Events, OptOuts
from app.operations.rehearsal.load import Requests
from app.operations.rehearsal.people import Person
from app.operations.rehearsal.web import Answer

ADA = Person(1, "ada@example.org", "password", cookie="session=a")
FENCED_AT = datetime(2026, 11, 26, 20, tzinfo=UTC)


class MadeUp:
    """Somebody's choice; `refused` answers 503 by method, and None is no answer."""

    def __init__(self, *, refused: dict[str, int | None] | None = None, fails_open: bool = False) -> None:
        self._refused = refused or {}
        self._fails_open = fails_open
        self.open = True
        self.asked: list[str] = []
        self.sent: dict[bool, set[str]] = {True: set(), False: set()}  # whether it was before the no

    def ask(self, method: str, _path: str, _person: Person, *, fresh: bool = True, **body: Any) -> Answer | None:
        self.asked.append(method)
        gevent.sleep(0.005)
        if method == "POST":
            self.sent[self.open] |= {item["id"] for item in body["events"]}
        if method in self._refused:
            status = self._refused[method]
            return None if status is None else answer(status)
        if method == "POST":
            is_taken = self.open or self._fails_open
            return answer(202, accepted=len(body["events"]) if is_taken else 0, rejected=[], opted_out=not is_taken)
        self.open = method == "DELETE"
        return answer(200, opted_out=not self.open, fenced_at=None if self.open else FENCED_AT.isoformat())


def answer(status: int, **told: Any) -> Answer:
    return Answer(status, cast(HTTPMessage, Message()), json.dumps(told).encode())


def asked(fleet: MadeUp) -> Requests:
    return cast(Requests, fleet)


def nothing(_user_id: int) -> dict[str, datetime]:
    return {}


def test_events_are_sent_in_batches_with_ids_of_their_own() -> None:
    fleet = MadeUp()
    events = Events(asked(fleet), [ADA])
    for number in range(3):
        events.send(number)
    assert [batch.taken for batch in events.sent] == [True] * 3
    assert {event_id for batch in events.sent for event_id in batch.ids} == fleet.sent[True]
    assert len(fleet.sent[True]) == 3 * BATCH


@pytest.mark.parametrize("status", [None, 502, 503])
def test_without_an_answer_it_is_not_known_whether_they_were_taken(status: int | None) -> None:
    events = Events(asked(MadeUp(refused={"POST": status})), [ADA])
    events.send(0)
    assert [batch.taken for batch in events.sent] == [None]


@pytest.mark.parametrize("fails_open", [False, True])
def test_a_no_comes_in_the_middle_of_the_events_and_they_go_on(fails_open: bool) -> None:
    fleet = MadeUp(fails_open=fails_open)
    opt_outs = OptOuts(asked(fleet), [ADA], lambda user_id: {f"of {user_id}": FENCED_AT})
    opt_outs.take_turn(0)
    (no,) = opt_outs.noes
    assert (no.answered, no.fenced_at, no.stored) == (True, FENCED_AT, {"of 1": FENCED_AT})
    assert {batch.taken for batch in no.after} == {fails_open}
    assert {batch.taken for batch in no.before} >= {True}
    before, after = ({event_id for batch in batches for event_id in batch.ids} for batches in (no.before, no.after))
    assert before >= fleet.sent[True]
    assert after <= fleet.sent[False]
    assert before | after == fleet.sent[True] | fleet.sent[False]


def test_who_has_said_no_says_yes_again_before_the_next_no() -> None:
    fleet = MadeUp()
    opt_outs = OptOuts(asked(fleet), [ADA], nothing)
    for number in range(2):
        opt_outs.take_turn(number)
    assert [method for method in fleet.asked if method != "POST"] == ["DELETE", "PUT"] * 2
    assert all({batch.taken for batch in no.before} >= {True} for no in opt_outs.noes)


@pytest.mark.parametrize("status", [None, 503])
def test_nobody_says_no_who_can_not_be_counted(status: int | None) -> None:
    fleet = MadeUp(refused={"DELETE": status})
    opt_outs = OptOuts(asked(fleet), [ADA], nothing)
    opt_outs.take_turn(0)
    assert (opt_outs.noes, fleet.asked) == ([], ["DELETE"])


@pytest.mark.parametrize("status", [None, 503])
def test_a_no_without_an_answer_proves_nothing(status: int | None) -> None:
    opt_outs = OptOuts(asked(MadeUp(refused={"PUT": status})), [ADA], nothing)
    opt_outs.take_turn(0)
    (no,) = opt_outs.noes
    assert (no.answered, no.stored, no.after) == (False, None, [])


def test_what_sql_does_not_tell_is_not_seen() -> None:
    def silent(_user_id: int) -> dict[str, datetime]:
        raise Unavailable("The database does not answer.")

    opt_outs = OptOuts(asked(MadeUp()), [ADA], silent)
    opt_outs.take_turn(0)
    assert [(no.answered, no.stored) for no in opt_outs.noes] == [(True, None)]


def test_nothing_is_sent_after_a_turn_that_was_broken_off() -> None:
    fleet = MadeUp()
    turn = gevent.spawn(OptOuts(asked(fleet), [ADA], nothing).take_turn, 0)
    while "POST" not in fleet.asked:
        gevent.sleep(0.001)
    turn.kill()
    count = len(fleet.asked)
    gevent.sleep(2 * PAUSE_SECONDS)
    assert len(fleet.asked) == count


def test_a_turn_that_still_goes_on_is_not_begun_again() -> None:
    fleet = MadeUp()
    opt_outs = OptOuts(asked(fleet), [ADA], nothing)
    gevent.joinall([gevent.spawn(opt_outs.take_turn, number) for number in range(3)])
    assert fleet.asked.count("PUT") == len(opt_outs.noes) == 1
