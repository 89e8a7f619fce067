"""Consent to analytics, and acceptance of events. If a person's consent cannot be read, no event of theirs is accepted."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection

from app.analytics import events, store
from app.analytics.events import Event, RejectedEvent
from app.analytics.intake import ACCEPTED, FULL, UNKNOWN, Intake
from app.analytics.person import (
    GPC,
    SESSION,
    USER,
    AnalyticsAccount,
    ConsentState,
    ErasureResult,
    HashedVisitor,
    OptOutStatus,
    Person,
    hash_visitor,
)
from app.core import metrics
from app.core.config import Config
from app.core.errors import NotSignedIn, Unavailable
from app.core.messages import Message, Publish, user_room
from app.database.engine import SQL_TIMEOUT_SECONDS, Database

__all__ = ["Analytics", "AnalyticsAccount", "ErasureResult", "Event", "HashedVisitor", "OptOutStatus", "Person", "RejectedEvent"]

ERASE_TIMEOUT_SECONDS = 20.0  # enough for a person with 100,000 events
FULL_RETRY_SECONDS = 5
MAX_CLOCK_DIFFERENCE = timedelta(seconds=1)

PersonType = TypeVar("PersonType", bound=Person)
ConsentChange = Callable[[Connection, Person], ConsentState | None]


class Analytics:
    def __init__(self, config: Config, database: Database, intake: Intake, publish: Publish) -> None:
        self._retention = timedelta(days=config.analytics_retention_days)
        self._database = database
        self._intake = intake
        self._publish = publish
        self._key: tuple[str, bytes] | None = None  # day, key

    def identify_visitor(self, address: str, user_agent: str) -> HashedVisitor:
        """Hash the visitor with today's key. Raises Unavailable if the key cannot be read."""
        day = datetime.now(UTC).date().isoformat()
        if self._key is None or self._key[0] != day:
            self._key = day, self._database.run(store.visitor_key, day)
        return hash_visitor(self._key[1], address, user_agent)

    # Consent.

    def opt_out_status(self, person: Person, *, has_cookie: bool, has_gpc: bool) -> OptOutStatus:
        """An opt-out of the account, by the cookie or by the Sec-GPC header suffices. Raises Unavailable."""
        if isinstance(person, AnalyticsAccount):
            # An account without stored consent has never opted out. None is stored here, because the database may be read-only.
            consent = self._read_consent(person, store.find_consent)
            if consent and not consent.is_granted:
                return OptOutStatus(True, USER, consent.opted_out_at)
        if has_cookie:
            with suppress(Unavailable):  # the cookie decides; the time is only known for a while
                consent = self.consent(person)
                return OptOutStatus(True, SESSION, consent.opted_out_at if consent else None)
            return OptOutStatus(True, SESSION, None)
        return OptOutStatus(has_gpc, GPC if has_gpc else None, None)

    def consent(self, person: Person) -> ConsentState | None:
        """Return the person's consent, or None for a deleted account. Raises Unavailable."""
        return self._read_consent(person, store.consent)

    def _read_consent(
        self, person: PersonType, read: Callable[[Connection, PersonType], ConsentState | None]
    ) -> ConsentState | None:
        if cached := self._intake.cached_consent(person):
            return cached
        consent = self._database.run(read, person)
        if consent:
            self._intake.accept(person, consent, [])  # caches it
        return consent

    def has_consent(self, person: Person) -> bool:
        consent = self.consent(person)
        return consent is not None and consent.is_granted

    def has_opted_out_since(self, person: Person, timestamp: datetime) -> bool:
        """Whether the person opted out after the timestamp of this instance's clock. Raises Unavailable."""
        consent = self.consent(person)
        if consent is None:
            return True
        return consent.opted_out_at is not None and consent.opted_out_at > timestamp - MAX_CLOCK_DIFFERENCE

    def opt_out(self, person: Person) -> datetime:
        """Return the time of the opt-out. Events with a later time, and those still queued, will not be stored."""
        consent = self._change(person, store.opt_out)
        assert consent.opted_out_at is not None
        if isinstance(person, AnalyticsAccount):
            self._publish([Message(user_room(person.user_id), "analytics_off", {"user_id": person.user_id})])
        return consent.opted_out_at

    def opt_in(self, person: Person) -> None:
        self._change(person, store.opt_in)

    def erase(self, person: Person) -> ErasureResult:
        counts = []

        def erase(connection: Connection, person: Person) -> ConsentState | None:
            count, consent = store.erase(connection, person)
            counts.append(count)
            return consent

        self._change(person, erase, ERASE_TIMEOUT_SECONDS)
        return ErasureResult(counts[-1], datetime.combine(datetime.now(UTC).date(), time(), UTC))

    def erase_account(self, connection: Connection, user_id: int) -> None:
        """Erase the events of an account, before or in the transaction that deletes the account."""
        store.erase(connection, AnalyticsAccount(user_id))

    def _change(self, person: Person, change: ConsentChange, timeout_seconds: float = SQL_TIMEOUT_SECONDS) -> ConsentState:
        """Change consent in SQL while no instance uses a cached one. Raises Unavailable; then nothing has changed."""
        self._intake.begin_consent_change(person, timeout_seconds)
        try:
            consent = self._database.run_within(timeout_seconds, change, person)
        except Unavailable:
            self._intake.abort_consent_change(person)
            raise
        if consent is None:
            raise NotSignedIn("This account has been deleted.")
        with suppress(Unavailable):  # the change is saved; the mark expires, and consent is read from SQL again
            self._intake.commit_consent(person, consent)
        return consent

    # Events.

    def validate(self, items: Sequence[Any]) -> tuple[list[Event], list[RejectedEvent]]:
        now = datetime.now(UTC)
        return events.validate(items, now, now - self._retention)

    def accept(self, person: Person, batch: Sequence[Event]) -> bool:
        """Accept all events durably (True), or none because of an opt-out (False). Raises Unavailable; then none is accepted."""
        outcome = self._intake.accept(person, None, batch)
        if outcome == UNKNOWN:
            consent = self._database.run(store.consent, person)
            outcome = self._intake.accept(person, consent, batch) if consent else ""
        if outcome == FULL:
            raise Unavailable("Too many events are waiting to be stored.", retry_after=FULL_RETRY_SECONDS)
        if outcome == ACCEPTED:
            metrics.events_taken.inc(len(batch))
        return outcome == ACCEPTED
