"""Analytics: who wants to be counted, and the events of those who do. What can't be known counts as a no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Any

from sqlalchemy import Connection

from app.analytics import store
from app.analytics.events import Event, Rejected, check
from app.analytics.intake import FULL, TAKEN, UNKNOWN, Intake
from app.analytics.person import GPC, SESSION, USER, Account, Choice, Erased, Person, Standing, Visitor, visitor_of
from app.core import metrics
from app.core.config import Config
from app.core.errors import Unavailable
from app.core.messages import Message, Publish, user_room
from app.database.engine import PATIENCE_SECONDS, Database

__all__ = ["Account", "Analytics", "Choice", "Erased", "Event", "Person", "Rejected", "Standing", "Visitor"]

ERASE_SECONDS = 20.0  # of somebody with a hundred thousand events
FULL_RETRY_SECONDS = 5
CLOCKS_DIFFER = timedelta(seconds=1)

Change = Callable[[Connection, Person], Standing | None]


class Analytics:
    def __init__(self, config: Config, database: Database, intake: Intake, publish: Publish) -> None:
        self._retention = timedelta(days=config.analytics_retention_days)
        self._database = database
        self._intake = intake
        self._publish = publish
        self._key: tuple[str, bytes] | None = None  # of today

    # Who.

    def visitor(self, address: str, user_agent: str) -> Visitor:
        """Today's. Raises Unavailable if today's key can't be read."""
        day = datetime.now(UTC).date().isoformat()
        if self._key is None or self._key[0] != day:
            self._key = day, self._database.run(store.visitor_key, day)
        return visitor_of(self._key[1], address, user_agent)

    # The choice.

    def choice(self, person: Person, *, browser_says_no: bool, gpc: bool) -> Choice:
        """Any no counts. Raises Unavailable."""
        if isinstance(person, Account):
            standing = self.standing(person)
            if standing and not standing.is_open:
                return Choice(True, USER, standing.fenced_at)
        if browser_says_no:
            return Choice(True, SESSION, self._fence_of(person))
        return Choice(gpc, GPC if gpc else None, None)

    def standing(self, person: Person) -> Standing | None:
        """None for an account that is gone. Raises Unavailable."""
        if known := self._intake.known(person):
            return known
        found = self._database.run(store.standing, person)
        if found:
            self._intake.learn(person, found)
        return found

    def is_open(self, person: Person) -> bool:
        standing = self.standing(person)
        return standing is not None and standing.is_open

    def has_refused_since(self, person: Person, moment: datetime) -> bool:
        """Whether a no has come after something happened that has not been taken yet. Clocks differ a little."""
        standing = self.standing(person)
        return standing is None or (standing.fenced_at is not None and standing.fenced_at > moment - CLOCKS_DIFFER)

    def opt_out(self, person: Person) -> datetime:
        """The moment of the fence: nothing of this person is stored with a later time, nor what waits to be stored now."""
        standing = self._change(person, store.opt_out)
        assert standing.fenced_at is not None
        if isinstance(person, Account):
            self._publish([Message(user_room(person.user_id), "analytics_off", {"user_id": person.user_id})])
        return standing.fenced_at

    def opt_in(self, person: Person) -> None:
        self._change(person, store.opt_in)

    def erase(self, person: Person) -> Erased:
        counts = []

        def erase(connection: Connection, person: Person) -> Standing | None:
            count, standing = store.erase(connection, person)
            counts.append(count)
            return standing

        self._change(person, erase, ERASE_SECONDS)
        return Erased(counts[-1], datetime.combine(datetime.now(UTC).date(), time(), UTC))

    def forget(self, connection: Connection, user_id: int) -> None:
        """With the account, in the transaction that deletes it."""
        store.forget(connection, user_id)

    def _fence_of(self, person: Person) -> datetime | None:
        """Of a browser's no, as long as it is known: its cookie is what counts."""
        with suppress(Unavailable):
            standing = self.standing(person)
            return standing.fenced_at if standing else None
        return None

    def _change(self, person: Person, change: Change, seconds: float = PATIENCE_SECONDS) -> Standing:
        """From its announcement on nobody goes by what was known before. Raises Unavailable; then nothing has changed."""
        self._intake.begin_change(person, seconds)
        try:
            standing = self._database.run_within(seconds, change, person)
        except Unavailable:
            self._intake.abandon_change(person)
            raise
        if standing is None:
            raise Unavailable("This account is being deleted.")  # by now it is; who asks again is not signed in any more
        with suppress(Unavailable):  # it is saved, and will be read from SQL
            self._intake.settle_change(person, standing)
        return standing

    # Events.

    def check(self, items: Sequence[Any]) -> tuple[list[Event], list[Rejected]]:
        now = datetime.now(UTC)
        return check(items, now, now - self._retention)

    def take(self, person: Person, batch: Sequence[Event]) -> bool:
        """True: durably taken. False: this person does not want to be counted. Raises Unavailable; then none of them is taken."""
        outcome = self._intake.take(person, None, batch)
        if outcome == UNKNOWN:
            found = self._database.run(store.standing, person)
            outcome = self._intake.take(person, found, batch) if found else ""
        if outcome == FULL:
            raise Unavailable("Too many events wait to be stored.", retry_after=FULL_RETRY_SECONDS)
        if outcome == TAKEN:
            metrics.events_taken.inc(len(batch))
        return outcome == TAKEN
