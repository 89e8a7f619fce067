"""Acceptance of events, and the cache of consent that decides about it without a database query.

A fleet does both in Redis: accepted events wait in a stream until a worker stores them. An embedded instance stores them at once.

The cache holds consent that was read from SQL. Before consent changes in SQL, the change is marked; until it is committed or
the mark expires, the cache holds nothing for that person and takes nothing. A newer version is never replaced by an older one.
So the cache may lack an entry, but an entry is never older than the last change. Only a failover of Redis can lose a change.
Events that are then accepted under an outdated version are not stored, because the consumer compares it with SQL.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
import redis

from app.analytics.events import Event
from app.analytics.partitions import partition_of, partitions_of
from app.analytics.person import ConsentState, Person, is_visitor
from app.analytics.store import IN_FLIGHT, AcceptedEvent, EventStore
from app.core.errors import Unavailable
from app.database.engine import SQL_TIMEOUT_SECONDS
from app.redis.client import RedisCommands
from app.redis.scripts import load_script

ACCEPTED, OPTED_OUT, UNKNOWN, FULL = "accepted", "opted_out", "unknown", "full"

CONSENT_CACHE_SECONDS = 600
CHANGE_MARGIN_SECONDS = 10  # the mark outlives the longest change and SQL query by this; it expires by itself after a crash
MAX_BACKLOG = 100_000  # events; 30 MB of Redis memory with the application's own events, 250 MB with the largest ones
MAX_CACHED_PEOPLE = 10_000  # in the memory of an embedded instance


class Intake(Protocol):
    """All methods raise Unavailable."""

    def cached_consent(self, person: Person) -> ConsentState | None: ...

    def accept(self, person: Person, consent: ConsentState | None, batch: Sequence[Event]) -> str:
        """Accept all events of the batch or none; returns ACCEPTED, OPTED_OUT, UNKNOWN (no consent is cached) or FULL.

        `consent` was read from SQL after UNKNOWN. It is cached, unless a newer one is cached or the consent is being changed.
        """

    def begin_consent_change(self, person: Person, timeout_seconds: float) -> None: ...

    def commit_consent(self, person: Person, consent: ConsentState) -> None: ...

    def abort_consent_change(self, person: Person) -> None:
        """The change failed, or its outcome is unknown."""


class RedisIntake:
    def __init__(self, client: redis.Redis, multiplexed: RedisCommands) -> None:
        self._multiplexed = multiplexed
        self._partitions = partitions_of(client)
        self._accept = client.register_script(load_script(__file__, "accept_events"))
        self._begin_change = client.register_script(load_script(__file__, "begin_consent_change"))
        self._commit_consent = client.register_script(load_script(__file__, "commit_consent"))

    def cached_consent(self, person: Person) -> ConsentState | None:
        consent_key, changes_key = self._consent_keys(person)
        with _translate_errors():
            cached, is_changing = self._multiplexed.execute_all(("GET", consent_key), ("EXISTS", changes_key))
            self._multiplexed.checked(int, is_changing)
            if cached is not None:
                self._multiplexed.checked(bytes, cached)
        return _decode(cached) if cached and not is_changing else None

    def accept(self, person: Person, consent: ConsentState | None, batch: Sequence[Event]) -> str:
        consent_in_sql: list[Any] = [_encode(consent), _ttl_ms(consent)] if consent else ["", 0]
        arguments = [*consent_in_sql, MAX_BACKLOG // len(self._partitions), *map(msgspec.json.encode, batch)]
        keys = [*self._consent_keys(person), partition_of(person, self._partitions).stream]
        with _translate_errors():
            outcome = self._multiplexed.run_script(bytes, self._accept, keys, arguments)
        return outcome.decode()

    def begin_consent_change(self, person: Person, timeout_seconds: float) -> None:
        with _translate_errors():
            self._begin_change(keys=self._consent_keys(person), args=[math.ceil(timeout_seconds) + CHANGE_MARGIN_SECONDS])

    def commit_consent(self, person: Person, consent: ConsentState) -> None:
        with _translate_errors():
            self._commit_consent(keys=self._consent_keys(person), args=[_encode(consent), consent.version, _ttl_ms(consent)])

    def abort_consent_change(self, person: Person) -> None:
        """Keep the mark until it expires: PostgreSQL may still commit the change."""

    def _consent_keys(self, person: Person) -> list[str]:
        return partition_of(person, self._partitions).consent_keys(person)


class DirectIntake:
    """The intake of an embedded instance. The cache is in memory, with the least recently cached person first."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._cache: OrderedDict[str, tuple[ConsentState, float]] = OrderedDict()  # consent, expiry
        self._changes: dict[str, int] = {}  # number of concurrent changes
        self._newest: dict[str, ConsentState] = {}  # of the concurrent changes that have been committed

    def cached_consent(self, person: Person) -> ConsentState | None:
        consent, expires_at = self._cache.get(person.key, (None, 0.0))
        return consent if time.monotonic() < expires_at else None

    def accept(self, person: Person, consent: ConsentState | None, batch: Sequence[Event]) -> str:
        cached = self.cached_consent(person)
        if consent and not cached and person.key not in self._changes:
            self._put(person, consent)
        consent = cached or consent
        if consent is None:
            return UNKNOWN
        if not consent.is_granted:
            return OPTED_OUT
        if batch:
            events = [AcceptedEvent(consent.pseudonym, consent.version, event) for event in batch]
            self._store.store(events, SQL_TIMEOUT_SECONDS)
        return ACCEPTED

    def begin_consent_change(self, person: Person, timeout_seconds: float) -> None:
        self._cache.pop(person.key, None)
        self._changes[person.key] = self._changes.get(person.key, 0) + 1

    def commit_consent(self, person: Person, consent: ConsentState) -> None:
        self._newest[person.key] = _newer(self._newest.get(person.key), consent)
        self.abort_consent_change(person)

    def abort_consent_change(self, person: Person) -> None:
        self._changes[person.key] -= 1
        if self._changes[person.key] == 0:
            del self._changes[person.key]
            if consent := self._newest.pop(person.key, None):
                self._put(person, consent)

    def _put(self, person: Person, consent: ConsentState) -> None:
        newest = _newer(self.cached_consent(person), consent)
        self._cache[person.key] = newest, time.monotonic() + _ttl_ms(newest) / 1000
        while len(self._cache) > MAX_CACHED_PEOPLE:
            self._cache.popitem(last=False)


def _newer(one: ConsentState | None, other: ConsentState) -> ConsentState:
    return one if one and one.version > other.version else other


def _ttl_ms(consent: ConsentState) -> int:
    """A visitor's opt-out is cached only for the requests that are in flight; later ones carry the cookie."""
    if is_visitor(consent.pseudonym) and not consent.is_granted:
        return IN_FLIGHT // timedelta(milliseconds=1)
    return CONSENT_CACHE_SECONDS * 1000


def _encode(consent: ConsentState) -> str:
    """`<version> open|closed <pseudonym> <time of the opt-out>`, which the Lua scripts parse."""
    opted_out_at = "" if consent.opted_out_at is None else consent.opted_out_at.isoformat()
    return f"{consent.version} {'open' if consent.is_granted else 'closed'} {consent.pseudonym} {opted_out_at}"


def _decode(text: bytes) -> ConsentState:
    version, state, pseudonym, opted_out_at = text.decode().split(" ")
    timestamp = datetime.fromisoformat(opted_out_at).astimezone(UTC) if opted_out_at else None
    return ConsentState(pseudonym, int(version), state == "open", timestamp)


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable("Analytics is not available right now. Please try again in a moment.") from error
