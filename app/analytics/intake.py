"""Where events are taken in, and where it is known how their people stand, without a question to the database.

A fleet does both in Redis: the events wait in a stream until a worker stores them. An embedded instance stores at once.

What is known of a person comes from SQL and is kept for a while. A change is announced before (`begin_change`); from then on
nothing is known of them and nothing learnt, until it is settled or the announcement has run out; and a newer version is never
replaced by an older one. So what is known can be missing, and is never older than what the last change has said.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import redis

from app.analytics.events import Event
from app.analytics.person import Person, Standing, is_visitor
from app.analytics.storage import Storage
from app.analytics.store import ON_THE_WAY, Accepted
from app.analytics.stream import STREAM, Entry
from app.core.errors import Unavailable
from app.database.engine import PATIENCE_SECONDS
from app.redis.client import RedisCommands

TAKEN, CLOSED, UNKNOWN, FULL = "taken", "closed", "unknown", "full"

KNOWN_SECONDS = 600
CHANGING_SECONDS = 10  # beyond what a change may take, and longer than any look at SQL; after a crash in the middle SQL is asked
MAX_WAITING = 100_000  # events; 30 MB of Redis' memory as the application makes them, 250 MB of the largest
MAX_KNOWN = 10_000  # people, in the memory of an embedded instance


class Intake(Protocol):
    """All methods raise Unavailable."""

    def known(self, person: Person) -> Standing | None: ...

    def learn(self, person: Person, standing: Standing) -> None:
        """What SQL says, unless it is being changed or something is known already."""

    def begin_change(self, person: Person, seconds: float) -> None:
        """`seconds`: that it may take."""

    def settle_change(self, person: Person, standing: Standing) -> None: ...

    def abandon_change(self, person: Person) -> None:
        """It failed, or what became of it is not known."""

    def take(self, person: Person, standing: Standing | None, batch: Sequence[Event]) -> str:
        """One of the words above: all of the batch or nothing. `standing`: as SQL says, where nothing was known."""


# KEYS: what is known of the person, the changes under way, the stream
# ARGV: what SQL says or "", its time to live in ms, the most that may wait, then the events
_TAKE = """
local standing = ARGV[1]
if redis.call('EXISTS', KEYS[2]) == 0 then
  local known = redis.call('GET', KEYS[1])
  if known then standing = known
  elseif standing ~= '' then redis.call('SET', KEYS[1], standing, 'PX', ARGV[2]) end
end
if standing == '' then return 'unknown' end
local version, state, pseudonym = string.match(standing, '^(%d+) (%a+) (%w+)')
if state ~= 'open' then return 'closed' end
if redis.call('XLEN', KEYS[3]) + #ARGV - 3 > tonumber(ARGV[3]) then return 'full' end
for i = 4, #ARGV do
  redis.call('XADD', KEYS[3], '*', 'person', pseudonym, 'version', version, 'event', ARGV[i])
end
return 'taken'
"""

# KEYS: what is known, the changes under way. ARGV: the time to live of the latter in s
_BEGIN = """
redis.call('DEL', KEYS[1])
redis.call('HINCRBY', KEYS[2], 'count', 1)
redis.call('EXPIRE', KEYS[2], ARGV[1])
"""

# KEYS: the same. ARGV: what SQL says, its version, its time to live in ms. Of several changes at once the newest version counts.
_SETTLE = """
local function version(standing) return standing and tonumber(string.match(standing, '^%d+')) or -1 end
local newest = ARGV[1]
for _, other in ipairs({redis.call('GET', KEYS[1]), redis.call('HGET', KEYS[2], 'newest')}) do
  if version(other) > tonumber(ARGV[2]) then newest = other end
end
if redis.call('EXISTS', KEYS[2]) == 1 and redis.call('HINCRBY', KEYS[2], 'count', -1) > 0 then
  redis.call('HSET', KEYS[2], 'newest', newest)
  return
end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], newest, 'PX', ARGV[3])
"""


class RedisIntake:
    def __init__(self, client: redis.Redis, multiplexed: RedisCommands) -> None:
        self._multiplexed = multiplexed
        self._take = client.register_script(_TAKE)
        self._begin = client.register_script(_BEGIN)
        self._settle = client.register_script(_SETTLE)

    def known(self, person: Person) -> Standing | None:
        standing, changing = _keys(person)
        with _available():
            known, is_changing = self._multiplexed.execute_all(("GET", standing), ("EXISTS", changing))
        return _read(known) if known and not is_changing else None

    def learn(self, person: Person, standing: Standing) -> None:
        self.take(person, standing, [])

    def begin_change(self, person: Person, seconds: float) -> None:
        with _available():
            self._begin(keys=_keys(person), args=[math.ceil(seconds) + CHANGING_SECONDS])

    def settle_change(self, person: Person, standing: Standing) -> None:
        with _available():
            self._settle(keys=_keys(person), args=[_write(standing), standing.version, _known_for_ms(standing)])

    def abandon_change(self, person: Person) -> None:
        """PostgreSQL may still be about to commit it: the announcement stands until it runs out."""

    def take(self, person: Person, standing: Standing | None, batch: Sequence[Event]) -> str:
        told: list[Any] = [_write(standing), _known_for_ms(standing)] if standing else ["", 0]
        entries = [Entry.write(event) for event in batch]
        with _available():
            outcome: bytes = self._multiplexed.run_script(self._take, [*_keys(person), STREAM], [*told, MAX_WAITING, *entries])
        return outcome.decode()


class DirectIntake:
    """Of an instance that is alone."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: OrderedDict[str, tuple[Standing, float]] = OrderedDict()  # the last one learnt last; until when
        self._changing: dict[str, int] = {}
        self._settled: dict[str, Standing] = {}  # by one of several changes

    def known(self, person: Person) -> Standing | None:
        standing, until = self._known.get(person.key, (None, 0.0))
        return standing if time.monotonic() < until else None

    def learn(self, person: Person, standing: Standing) -> None:
        if person.key not in self._changing and not self.known(person):
            self._keep(person, standing)

    def begin_change(self, person: Person, seconds: float) -> None:
        self._known.pop(person.key, None)
        self._changing[person.key] = self._changing.get(person.key, 0) + 1

    def settle_change(self, person: Person, standing: Standing) -> None:
        self._settled[person.key] = _newer(self._settled.get(person.key), standing)
        self.abandon_change(person)

    def abandon_change(self, person: Person) -> None:
        self._changing[person.key] -= 1
        if self._changing[person.key]:
            return
        del self._changing[person.key]
        if settled := self._settled.pop(person.key, None):
            self._keep(person, settled)

    def take(self, person: Person, standing: Standing | None, batch: Sequence[Event]) -> str:
        if standing:
            self.learn(person, standing)
        standing = self.known(person) or standing
        if standing is None:
            return UNKNOWN
        if not standing.is_open:
            return CLOSED
        accepted = [Accepted(standing.pseudonym, standing.version, event) for event in batch]
        self._storage.store(accepted, PATIENCE_SECONDS)
        return TAKEN

    def _keep(self, person: Person, standing: Standing) -> None:
        newest = _newer(self.known(person), standing)
        self._known[person.key] = newest, time.monotonic() + _known_for_ms(newest) / 1000
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def _newer(one: Standing | None, other: Standing) -> Standing:
    return one if one and one.version > other.version else other


def _keys(person: Person) -> list[str]:
    return [f"analytics:standing:{person.key}", f"analytics:changing:{person.key}"]


def _known_for_ms(standing: Standing) -> int:
    """A visitor is closed for a moment only."""
    for_a_moment = is_visitor(standing.pseudonym) and not standing.is_open
    return int(ON_THE_WAY / timedelta(milliseconds=1)) if for_a_moment else KNOWN_SECONDS * 1000


def _write(standing: Standing) -> str:
    fenced_at = "" if standing.fenced_at is None else standing.fenced_at.isoformat()
    return f"{standing.version} {'open' if standing.is_open else 'closed'} {standing.pseudonym} {fenced_at}"


def _read(text: bytes) -> Standing:
    version, state, pseudonym, fenced_at = text.decode().split(" ")
    moment = datetime.fromisoformat(fenced_at).astimezone(UTC) if fenced_at else None
    return Standing(pseudonym, int(version), state == "open", moment)


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable("What is counted can't be read or changed now. Please try again in a moment.") from error
