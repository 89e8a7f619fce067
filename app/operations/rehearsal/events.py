"""The load of analytics events: users who allow analytics, and users who opt out while they send events."""

import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from uuid import uuid4

import gevent
from gevent.event import Event as Signal

from app.core.errors import Unavailable
from app.operations.rehearsal.load import RecordingClient
from app.operations.rehearsal.measurements import EventBatch, OptOut
from app.operations.rehearsal.users import RehearsalUser

EVENT_NAME = "rehearsal"
BATCH_SIZE = 3
CONCURRENT_SENDERS = 2  # per user, so that some events are in flight at any time
MAX_PAUSE_SECONDS = 0.1
BEFORE_OPT_OUT_SECONDS = 0.05, 0.2
AFTER_OPT_OUT_SECONDS = 0.4

OPT_OUT_PATH = "/api/analytics/opt-out"


class EventLoad:
    """Events of users who never opt out. Events that are answered with 202 have to be stored."""

    def __init__(self, client: RecordingClient, users: Sequence[RehearsalUser]) -> None:
        self._client = client
        self._users = users
        self.sent: list[EventBatch] = []

    def send(self, number: int) -> None:
        user = self._users[number % len(self._users)]
        self.sent.append(_send(self._client, user, fresh=number % 4 < 2))


class OptOutLoad:
    """Users who opt out while they send events, and opt in again before their next turn.

    A turn begins seconds after the previous one of the same user, so that none of its requests is in flight any more. The users
    send only their session cookie: the server's record of the opt-out is under test, not the browser's.
    """

    def __init__(
        self, client: RecordingClient, users: Sequence[RehearsalUser], stored: Callable[[int], dict[str, datetime]]
    ) -> None:
        """`stored(user ID)` returns the user's events in SQL as {event ID: time}, or raises Unavailable."""
        self._client = client
        self._users = users
        self._stored = stored
        self._busy: set[int] = set()
        self.opt_outs: list[OptOut] = []

    def take_turn(self, number: int) -> None:
        user = self._users[number % len(self._users)]
        if user.id in self._busy:
            return
        self._busy.add(user.id)
        try:
            self._opt_out_while_sending(user)
        finally:
            self._busy.remove(user.id)

    def _opt_out_while_sending(self, user: RehearsalUser) -> None:
        response = self._client.request("DELETE", OPT_OUT_PATH, user)
        if response is None or response.status != 200:
            return
        opt_out, is_over = OptOut(), Signal()
        senders = [gevent.spawn(self._keep_sending, user, opt_out, is_over) for _ in range(CONCURRENT_SENDERS)]
        try:
            gevent.sleep(random.uniform(*BEFORE_OPT_OUT_SECONDS))  # noqa: S311 - while events are in flight
            self._opt_out(user, opt_out)
            gevent.sleep(AFTER_OPT_OUT_SECONDS)
        finally:
            is_over.set()
            gevent.joinall(senders)
        self.opt_outs.append(opt_out)

    def _opt_out(self, user: RehearsalUser, opt_out: OptOut) -> None:
        response = self._client.request("PUT", OPT_OUT_PATH, user)
        if response is None or response.status != 200:
            return
        opt_out.confirmed = True
        fenced_at = json.loads(response.body)["fenced_at"]
        opt_out.fenced_at = datetime.fromisoformat(fenced_at) if fenced_at else None
        with suppress(Unavailable):
            opt_out.stored = self._stored(user.id)

    def _keep_sending(self, user: RehearsalUser, opt_out: OptOut, is_over: Signal) -> None:
        while not is_over.is_set():
            batches = opt_out.after if opt_out.confirmed else opt_out.before
            batches.append(_send(self._client, user))
            gevent.sleep(random.uniform(0, MAX_PAUSE_SECONDS))  # noqa: S311


def _send(client: RecordingClient, user: RehearsalUser, *, fresh: bool = True) -> EventBatch:
    ids = [str(uuid4()) for _ in range(BATCH_SIZE)]
    items = [{"id": event_id, "name": EVENT_NAME, "category": EVENT_NAME} for event_id in ids]
    response = client.request("POST", "/api/analytics/events", user, fresh=fresh, events=items)
    if response is None or response.status != 202:
        return EventBatch(ids, accepted=None)
    result = json.loads(response.body)
    return EventBatch(ids, accepted=result["accepted"] > 0 or not result["opted_out"])
