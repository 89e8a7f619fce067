"""The load of events: users who let themselves be counted, and users who say no in the middle of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from uuid import uuid4

import gevent
from gevent.event import Event as Signal

from app.core.errors import Unavailable
from app.operations.rehearsal.load import Requests
from app.operations.rehearsal.measurements import Batch, No
from app.operations.rehearsal.people import Person

NAME = "rehearsal"  # of all its events
BATCH = 3
SENDERS = 2  # of one user at once, so that some events are on their way at any moment
PAUSE_SECONDS = 0.1  # of a sender, at most
BEFORE_SECONDS = 0.05, 0.2
AFTERWARDS_SECONDS = 0.4

OPT_OUT = "/api/analytics/opt-out"


class Events:
    """Of users who never say no. What is answered 202 has to be stored."""

    def __init__(self, requests: Requests, people: Sequence[Person]) -> None:
        self._requests = requests
        self._people = people
        self.sent: list[Batch] = []

    def send(self, number: int) -> None:
        person = self._people[number % len(self._people)]
        self.sent.append(_send(self._requests, person, fresh=number % 4 < 2))


class OptOuts:
    """Users who say no while they send events, and yes again when it is their turn once more.

    By then a few seconds have gone, so that nothing of the turn before is under way any more. All they bring is the cookie of
    their session: it is not the browser's own no that is on trial.
    """

    def __init__(self, requests: Requests, people: Sequence[Person], stored: Callable[[int], dict[str, datetime]]) -> None:
        """`stored(user id)`: when each of the user's events in SQL happened; raises Unavailable."""
        self._requests = requests
        self._people = people
        self._stored = stored
        self._busy: set[int] = set()
        self.noes: list[No] = []

    def take_turn(self, number: int) -> None:
        person = self._people[number % len(self._people)]
        if person.id in self._busy:  # still without an answer
            return
        self._busy.add(person.id)
        try:
            self._change(person)
        finally:
            self._busy.remove(person.id)

    def _change(self, person: Person) -> None:
        answer = self._requests.ask("DELETE", OPT_OUT, person)
        if answer is None or answer.status != 200:
            return
        no, over = No(), Signal()
        senders = [gevent.spawn(self._keep_sending, person, no, over) for _ in range(SENDERS)]
        try:
            gevent.sleep(random.uniform(*BEFORE_SECONDS))  # noqa: S311 - in the middle of them
            self._say_no(person, no)
            gevent.sleep(AFTERWARDS_SECONDS)
        finally:
            over.set()
            gevent.joinall(senders)
        self.noes.append(no)

    def _say_no(self, person: Person, no: No) -> None:
        answer = self._requests.ask("PUT", OPT_OUT, person)
        if answer is None or answer.status != 200:
            return
        no.answered = True
        fenced_at = json.loads(answer.body)["fenced_at"]
        no.fenced_at = datetime.fromisoformat(fenced_at) if fenced_at else None
        with suppress(Unavailable):
            no.stored = self._stored(person.id)

    def _keep_sending(self, person: Person, no: No, over: Signal) -> None:
        while not over.is_set():
            batches = no.after if no.answered else no.before
            batches.append(_send(self._requests, person))
            gevent.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311


def _send(requests: Requests, person: Person, *, fresh: bool = True) -> Batch:
    ids = [str(uuid4()) for _ in range(BATCH)]
    items = [{"id": event_id, "name": NAME, "category": NAME} for event_id in ids]
    answer = requests.ask("POST", "/api/analytics/events", person, fresh=fresh, events=items)
    if answer is None or answer.status != 202:
        return Batch(ids, taken=None)
    told = json.loads(answer.body)
    return Batch(ids, taken=told["accepted"] > 0 or not told["opted_out"])
