"""The stream in which accepted events wait, and how those who store them share it: a consumer group of Redis.

An entry is given to one consumer, and to another if that one has not acknowledged it for a while. It is acknowledged, and
removed, after it was stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from app.analytics.events import Event
from app.analytics.store import Accepted
from app.core import metrics

STREAM, GROUP = "analytics:events", "workers"
POISON = "analytics:poison"  # what can't be stored whatever one does, for somebody to look at
MAX_POISON = 1000
POISON_KEPT_SECONDS = 7 * 86_400  # after the last one
BLOCK_MS = 500  # less than the patience of the connection
# A batch takes less; of one that takes longer a second consumer may have a part, which does no harm.
ABANDONED_MS = 5000
CLAIM_SECONDS = 1.0
TIDY_SECONDS = 600.0
LOOK_SECONDS = 5.0
LONG_SECONDS = 60
FORGOTTEN_MS = 3_600_000  # a consumer that has read nothing for so long has ended


@dataclass(frozen=True)
class Entry:
    id: bytes
    fields: dict[bytes, bytes]

    def read(self) -> Accepted:
        """Raises ValueError where this is nothing that `write` has made."""
        try:
            event = msgspec.json.decode(self.fields[b"event"], type=Event)
            return Accepted(self.fields[b"person"].decode(), int(self.fields[b"version"]), event)
        except (KeyError, msgspec.MsgspecError) as error:
            raise ValueError("not an event") from error

    @staticmethod
    def write(event: Event) -> bytes:
        return msgspec.json.encode(event)


class EventStream:
    """As one consumer sees it. Raises redis.RedisError."""

    def __init__(self, client: redis.Redis, consumer: str) -> None:
        self._client = client
        self._consumer = consumer
        self._claimed_at = self._tidied_at = 0.0

    def read(self, count: int) -> list[Entry]:
        """What others have left, and what is new; waits a moment if there is nothing."""
        try:
            return self._abandoned(count) or self._new(count)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self._create_group()
            return []

    def done(self, entries: Iterable[Entry]) -> None:
        ids = [entry.id for entry in entries]
        with self._client.pipeline() as pipeline:
            pipeline.xack(STREAM, GROUP, *ids)
            pipeline.xdel(STREAM, *ids)
            pipeline.execute()

    def put_aside(self, entry: Entry) -> None:
        fields: dict[Any, Any] = dict(entry.fields)
        self._client.xadd(POISON, fields, maxlen=MAX_POISON)
        self._client.expire(POISON, POISON_KEPT_SECONDS)
        self.done([entry])

    def _new(self, count: int) -> list[Entry]:
        found: Any = self._client.xreadgroup(GROUP, self._consumer, {STREAM: ">"}, count=count, block=BLOCK_MS)
        return [Entry(*entry) for _, entries in found or [] for entry in entries]

    def _abandoned(self, count: int) -> list[Entry]:
        """Looked for now and then, and as long as there is any."""
        if time.monotonic() - self._claimed_at < CLAIM_SECONDS:
            return []
        found: Any = self._client.xautoclaim(STREAM, GROUP, self._consumer, ABANDONED_MS, count=count)
        if not found[1]:
            self._claimed_at = time.monotonic()
            self._tidy()
        return [Entry(*entry) for entry in found[1]]

    def _tidy(self) -> None:
        """Each start of a worker is a consumer of its own."""
        if time.monotonic() - self._tidied_at < TIDY_SECONDS:
            return
        self._tidied_at = time.monotonic()
        for consumer in self._client.xinfo_consumers(STREAM, GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > FORGOTTEN_MS:
                self._client.xgroup_delconsumer(STREAM, GROUP, consumer["name"])

    def _create_group(self) -> None:
        with suppress(redis.ResponseError):  # another one was quicker
            self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)


class Overseer:
    """Tells what an operator should look at, and counts for the metrics."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._looked_at = -math.inf
        self._caution: str | None = None

    def look(self) -> str | None:
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            try:
                self._count()
                self._caution = self._waits_too_long() or self._is_volatile()
            except redis.ResponseError as error:  # which is no failure of Redis
                self._caution = f"the stream of events can't be looked at: {str(error).partition(' ')[0]}"
        return self._caution

    def _count(self) -> None:
        metrics.events_waiting.set(self._client.xlen(STREAM))
        metrics.events_put_aside.set(self._client.xlen(POISON))

    def _waits_too_long(self) -> str | None:
        oldest: Any = self._client.xrange(STREAM, count=1)
        seconds, _ = self._client.time()
        if oldest and seconds - int(oldest[0][0].split(b"-")[0]) / 1000 > LONG_SECONDS:
            return f"events wait for more than {LONG_SECONDS} s: does a worker run, and does the database answer it?"
        return None

    def _is_volatile(self) -> str | None:
        persistence: Any = self._client.info("persistence")
        return None if persistence.get("aof_enabled") else "appendonly is off: accepted events would be lost with a restart"
