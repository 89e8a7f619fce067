"""The Redis streams in which accepted events wait, and their consumers, which run in worker processes.

Each worker process has one consumer for each partition. The consumers of a partition form one consumer group. An entry is
acknowledged and deleted after its event was committed to SQL. If its consumer stops before that, another consumer claims it.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis
from sqlalchemy.exc import IntegrityError

from app.analytics.events import Event
from app.analytics.partitions import SINGLE, Partition, partitions_of
from app.analytics.store import AcceptedEvent, EventStore
from app.core import metrics
from app.core.errors import Invalid, Unavailable, cause_of
from app.core.logs import RepetitionFilter
from app.core.warnings import OperatorWarning
from app.jobs.task_record import LocalTaskRecord, TaskRecord

log = logging.getLogger(__name__)

GROUP = "workers"
MAX_DEAD_LETTERS = 1000  # of a partition
DEAD_LETTERS_TTL_SECONDS = 7 * 86_400  # after the last one
TASK, RECORD_INTERVAL_SECONDS = "store_events", 5.0
BLOCK_MS = 500  # must be less than the timeout of the Redis client
BATCH = 500
STORE_TIMEOUT_SECONDS = 10.0
GATHER_SECONDS = 0.05  # pause after a small batch, so that single events are stored together
RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 5.0
MAX_DEFECTS = 3  # in a batch of which nothing can be stored; then its other events are not tried one by one
# Longer than a usual batch takes. A second consumer may claim entries of a slower one, which does no harm: storing is idempotent.
STALE_MS = 5000
CLAIM_INTERVAL_SECONDS = 1.0
CLEANUP_INTERVAL_SECONDS = 600.0
IDLE_CONSUMER_MS = 3_600_000  # a consumer that has read nothing for this long has ended
MAX_AGE_SECONDS = 60

ERRORS_OF_AN_EVENT = (Invalid, IntegrityError, ValueError)  # the database would refuse it again

Fields = Mapping[bytes, bytes]


def decode_entry(fields: Fields) -> AcceptedEvent:
    """Decode an entry of the stream. Raises ValueError if `RedisIntake` did not write it."""
    try:
        event = msgspec.json.decode(fields[b"event"], type=Event)
        return AcceptedEvent(fields[b"person"].decode(), int(fields[b"version"]), event)
    except (KeyError, msgspec.MsgspecError) as error:
        raise ValueError("not an event") from error


@dataclass
class BatchOutcome:
    """The result of storing a batch, so far. A defect is an error of the code or the schema, which a fix can end."""

    has_progress: bool = False
    defects: list[Exception] = field(default_factory=list)

    @property
    def is_hopeless(self) -> bool:
        return not self.has_progress and len(self.defects) >= MAX_DEFECTS


class StoreRecord:
    """Records that the task succeeds while the consumers of all partitions do. If one fails, the task counts as failing."""

    def __init__(self, record: TaskRecord, partitions: Sequence[Partition]) -> None:
        self._record = record
        self._partitions = frozenset(partitions)
        self._missing = set(partitions)  # without a success since the last record
        self._recorded_at = -math.inf
        self._lock = threading.Lock()

    def start(self) -> None:
        self._record.start(TASK, RECORD_INTERVAL_SECONDS)

    def succeed(self, partition: Partition) -> None:
        with self._lock:
            self._missing.discard(partition)
            if self._missing or time.monotonic() - self._recorded_at <= RECORD_INTERVAL_SECONDS:
                return
            self._missing, self._recorded_at = set(self._partitions), time.monotonic()
        self._record.succeed(TASK, RECORD_INTERVAL_SECONDS)


class EventConsumer:
    """One consumer of a partition: reads entries, stores their events in batches, and acknowledges them after the commit."""

    def __init__(
        self,
        store: EventStore,
        client: redis.Redis,
        name: str,
        record: StoreRecord | None = None,
        partition: Partition = SINGLE,
        store_lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        """The consumers of a process share `record` and `store_lock`.

        The lock is held while events are stored, to leave database connections to jobs.
        """
        self._store = store
        self._partition = partition
        self._stream, self._dead_letters = partition.stream, partition.dead_letters
        self._store_lock = store_lock or nullcontext()
        self._record = record or StoreRecord(LocalTaskRecord(), [partition])
        self._client = client
        self._name = name
        self._stop = threading.Event()
        self._pending: dict[bytes, Fields] = {}  # read, but not acknowledged yet
        self._claimed_at = self._cleaned_up_at = 0.0
        self._reads_new_first = False  # after a defect, so that its events, claimed again and again, do not delay others
        self._defects, self._outages = RepetitionFilter(), RepetitionFilter()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Process batches until `stop` is called."""
        self._record.start()
        delay = RETRY_SECONDS
        while not self._stop.is_set():
            try:
                count = self.process_batch()
                self._outages.reset()
                self._record.succeed(self._partition)
            except (Unavailable, redis.RedisError) as error:
                self._log_outage(cause_of(error) or type(error).__name__)
                self._stop.wait(RETRY_SECONDS)
            except Exception as error:  # must not end the thread: nothing would restart it
                self._log_defect(error)
                self._stop.wait(delay)
                delay = min(2 * delay, MAX_RETRY_SECONDS)
            else:
                delay = RETRY_SECONDS if count else delay
                if count < BATCH:
                    self._stop.wait(GATHER_SECONDS)

    def process_batch(self) -> int:
        """Read, store and acknowledge a batch. Returns how many entries were read.

        Raises a defect that seems to affect every event, and logs one that affects some. Their events stay in the stream.
        """
        entries = self._read(BATCH - len(self._pending)) if len(self._pending) < BATCH else {}
        self._pending |= entries
        decoded = [(id_, event) for id_, fields in list(self._pending.items()) if (event := self._decode(id_, fields))]
        outcome = BatchOutcome()
        with self._store_lock:
            self._store_all(decoded, outcome)
        self._reads_new_first = bool(outcome.defects)
        if outcome.defects or len(self._pending) == BATCH:
            self._pending.clear()  # failed, or deferred by locked rows: leave them to be claimed as stale, and go on with others
        if outcome.is_hopeless:
            raise outcome.defects[0]
        if outcome.defects:
            self._log_defect(outcome.defects[0])
        return len(entries)

    def _decode(self, entry_id: bytes, fields: Fields) -> AcceptedEvent | None:
        try:
            return decode_entry(fields)
        except ValueError as error:
            self._dead_letter(entry_id, str(error))
            return None

    def _store_all(self, batch: Sequence[tuple[bytes, AcceptedEvent]], outcome: BatchOutcome) -> None:
        """Store the batch. If that fails, bisect it to find the events that cannot be stored, so that the others can.

        An event that the database refuses is dead-lettered. Any other error is a defect, and its events stay pending.
        """
        if not batch or outcome.is_hopeless:
            return
        try:
            deferred = self._store.store([event for _, event in batch], STORE_TIMEOUT_SECONDS)
        except Unavailable:
            raise
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._store_all(batch[:middle], outcome)
                self._store_all(batch[middle:], outcome)
            elif isinstance(error, ERRORS_OF_AN_EVENT):
                self._dead_letter(batch[0][0], cause_of(error) or _first_line(error))
                outcome.has_progress = True
            else:
                outcome.defects.append(error)
            return
        deferred_ids = {id(event) for event in deferred}
        self._acknowledge([entry_id for entry_id, event in batch if id(event) not in deferred_ids])
        outcome.has_progress = True

    def _log_outage(self, cause: str) -> None:
        if self._outages.accepts(cause):
            log.warning("cannot store events of %s, retrying every %s s: %s", self._stream, RETRY_SECONDS, cause)

    def _log_defect(self, error: Exception) -> None:
        defect = f"{type(error).__name__}: {_first_line(error)}"
        if self._defects.accepts(defect):
            log.error("cannot store events, they stay in the stream: %s", defect, exc_info=error)

    def _acknowledge(self, ids: Sequence[bytes]) -> None:
        if not ids:
            return
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xack(self._stream, GROUP, *ids)
            pipeline.xdel(self._stream, *ids)
            pipeline.execute()
        for entry_id in ids:
            del self._pending[entry_id]

    def _dead_letter(self, entry_id: bytes, reason: str) -> None:
        fields: dict[Any, Any] = dict(self._pending[entry_id])
        fields[b"reason"] = reason
        self._client.xadd(self._dead_letters, fields, maxlen=MAX_DEAD_LETTERS)
        self._client.expire(self._dead_letters, DEAD_LETTERS_TTL_SECONDS)
        self._acknowledge([entry_id])
        log.error("event %s dead-lettered: it cannot be stored: %s", entry_id.decode(), reason)

    def _read(self, count: int) -> dict[bytes, Fields]:
        """Return stale entries, of other consumers too, or else new ones. Blocks for BLOCK_MS at most."""
        first, second = self._claim_stale, self._read_new
        if self._reads_new_first:
            first, second = second, first
        try:
            return first(count) or second(count)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            with suppress(redis.ResponseError):  # another consumer created the group first
                self._client.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
            return {}

    def _read_new(self, count: int) -> dict[bytes, Fields]:
        found: Any = self._client.xreadgroup(GROUP, self._name, {self._stream: ">"}, count=count, block=BLOCK_MS)
        return {entry_id: fields for _, entries in found or [] for entry_id, fields in entries}

    def _claim_stale(self, count: int) -> dict[bytes, Fields]:
        """Claim entries every CLAIM_INTERVAL_SECONDS, and without a pause while there are any."""
        if time.monotonic() - self._claimed_at < CLAIM_INTERVAL_SECONDS:
            return {}
        found: Any = self._client.xautoclaim(self._stream, GROUP, self._name, STALE_MS, count=count)
        if not found[1]:
            self._claimed_at = time.monotonic()
            self._delete_idle_consumers()
        return dict(found[1])

    def _delete_idle_consumers(self) -> None:
        """Every start of a worker adds a consumer."""
        if time.monotonic() - self._cleaned_up_at < CLEANUP_INTERVAL_SECONDS:
            return
        self._cleaned_up_at = time.monotonic()
        for consumer in self._client.xinfo_consumers(self._stream, GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > IDLE_CONSUMER_MS:
                self._client.xgroup_delconsumer(self._stream, GROUP, consumer["name"])


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).partition("\n")[0]


def create_consumers(store: EventStore, client: redis.Redis, name: str, record: TaskRecord) -> list[EventConsumer]:
    """Return a consumer for each partition. `name` is unique: no other process has it."""
    partitions, lock = partitions_of(client), threading.Lock()
    shared_record = StoreRecord(record, partitions)
    return [EventConsumer(store, client, name, shared_record, partition, lock) for partition in partitions]


def count_waiting(client: redis.Redis) -> int:
    """Return how many accepted events no worker has stored yet. Raises redis.RedisError."""
    return sum(client.xlen(partition.stream) for partition in partitions_of(client))


def count_dead_letters(client: redis.Redis) -> int:
    """Return how many events are kept that can never be stored. Raises redis.RedisError."""
    return sum(client.xlen(partition.dead_letters) for partition in partitions_of(client))


class StreamMonitor:
    """Watches the streams for the health check of workers, and exports their size as metrics."""

    def __init__(self, client: redis.Redis) -> None:
        self.waiting = 0  # accepted events that no worker has stored yet, at the last call of `find_warning`
        self._client = client
        self._partitions = partitions_of(client)
        self._dead_letters = 0

    def find_warning(self) -> OperatorWarning | None:
        """Count the events, and return what an operator should know. Raises redis.RedisError."""
        try:
            self._count()
            return self._backlog_warning() or self._dead_letter_warning()
        except redis.ResponseError as error:  # Redis works, but the key holds something else
            text = f"cannot read the event stream {SINGLE.stream}: {str(error).partition(' ')[0]}"
            return OperatorWarning("event_stream_unreadable", text)

    def _count(self) -> None:
        self.waiting, self._dead_letters = count_waiting(self._client), count_dead_letters(self._client)
        metrics.events_waiting.set(self.waiting)
        metrics.events_put_aside.set(self._dead_letters)

    def _backlog_warning(self) -> OperatorWarning | None:
        oldest: list[Any] = []
        for partition in self._partitions:
            oldest += self._client.xrange(partition.stream, count=1) or []
        seconds, _ = self._client.time()
        if any(seconds - int(entry_id.split(b"-")[0]) / 1000 > MAX_AGE_SECONDS for entry_id, _ in oldest):
            text = f"events wait for more than {MAX_AGE_SECONDS} s: check that a worker is running and reaches the database"
            return OperatorWarning("events_waiting", text)
        return None

    def _dead_letter_warning(self) -> OperatorWarning | None:
        text = f"{self._dead_letters} events are dead-lettered: list them with flask --app wsgi events dead-letters"
        return OperatorWarning("dead_letters", text) if self._dead_letters else None
