"""The cost of storing, exporting, deleting and reporting analytics events when many are stored."""

import os
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select, text

from app.analytics import store
from app.analytics.catalogue import BY_NAME, FUNNELS, PAGE_VIEWED
from app.analytics.event_stream import BATCH
from app.analytics.events import Event
from app.analytics.exports import store as exports
from app.analytics.exports.file import CsvFile
from app.analytics.exports.jobs import PAGE_SIZE
from app.analytics.exports.store import Export
from app.analytics.person import PSEUDONYM_LENGTH, VISITOR_PREFIX, HashedVisitor
from app.analytics.reports.ranges import TimeRange, ceiling
from app.analytics.reports.service import AnalyticsReports
from app.analytics.store import AcceptedEvent
from app.core.timestamps import DAY
from app.database.engine import Database
from app.database.schema import events as table
from app.database.schema import rollups, visitors, visits
from app.database.upgrade import upgrade
from app.jobs.leases import RUNNING
from bench import events, machine
from bench.growth.fleet import spent
from bench.growth.series import PROPORTIONAL, Line, Panel, Series
from harness.servers import PostgresServer

SIZES = (10_000, 100_000, 1_000_000)
ROUNDS = 5
DAYS, SHOWN_DAYS = 90, 30
PAGES = 5  # of an export
PURGED, VISITORS = 1_000, 100
LONG_SECONDS = 900


class StoredEvents:
    """A database with `count` events, and the operations to measure."""

    def __init__(self, postgres: PostgresServer, count: int) -> None:
        self._postgres = postgres
        self._now = datetime.now(UTC)
        self._since = self._now - timedelta(days=DAYS)
        self._database = Database(postgres.create_database().replace("postgresql:", "postgresql+psycopg2:"), 1, "bench")
        upgrade(self._database)
        self._database.run_within(LONG_SECONDS, events.store, count, self._since, self._now)
        self._database.run_within(LONG_SECONDS, events.count_all)
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"SET statement_timeout = {LONG_SECONDS * 1000}"))
            connection.execute(text("VACUUM ANALYZE"))  # PostgreSQL's autovacuum would do it later

    def close(self) -> None:
        self._database.close()

    def store(self) -> tuple[float, ...]:
        """Return CPU seconds of PostgreSQL and of this process per event. The other methods return the same."""
        batch = _batch([_visitor() for _ in range(VISITORS)], self._now, timedelta(hours=1))
        with self._spent(BATCH) as cpu:
            self._database.run_within(LONG_SECONDS, store.store_events, batch, self._since)
        return tuple(cpu)

    def export(self) -> tuple[float, ...]:
        export = Export(0, 0, self._since, self._now, RUNNING, 0, 0, None, self._now, None)
        middle, file = (self._since + (self._now - self._since) / 2, "", ""), CsvFile()
        with self._spent(PAGES * PAGE_SIZE) as cpu:
            for _ in range(PAGES):
                found, last = self._database.run_within(LONG_SECONDS, exports.read_page, export, middle, PAGE_SIZE)
                assert last
                middle = last
                file.add(found)
        return tuple(cpu)

    def purge(self) -> tuple[float, ...]:
        oldest = self._database.run(_time_of, PURGED)
        with self._spent(PURGED) as cpu:
            assert self._database.run_within(LONG_SECONDS, store.purge_batch, oldest, 10 * PURGED) == PURGED
        return tuple(cpu)

    def erase(self) -> tuple[float, ...]:
        person = _visitor()
        self._database.run_within(
            LONG_SECONDS, store.store_events, _batch([person], self._now, timedelta(days=SHOWN_DAYS)), self._since
        )
        with self._spent(BATCH) as cpu:
            assert self._database.run_within(LONG_SECONDS, store.erase, person)[0] == BATCH
        return tuple(cpu)

    def read(self) -> tuple[float, ...]:
        """Read all data of the analytics page."""
        until = ceiling(self._now, DAY)
        with self._spent(1) as cpu:
            AnalyticsReports(self._database, PAGE_VIEWED, FUNNELS).overview(
                TimeRange(until - timedelta(days=SHOWN_DAYS), until, DAY)
            )
        return tuple(cpu)

    def disk_bytes(self) -> list[int]:
        """Return the sizes of the events and of their rollups, including indexes."""
        rollup_sizes = " + ".join(f"pg_total_relation_size('{one.name}')" for one in (rollups, visits, visitors))
        sizes = text(f"SELECT pg_total_relation_size('{table.name}'), {rollup_sizes}")
        return list(self._database.run(lambda connection: connection.execute(sizes).one()))

    @contextmanager
    def _spent(self, amount: int) -> Iterator[list[float]]:
        costs: list[float] = []
        started = time.process_time()
        with spent(self._postgres.pid) as cpu:
            yield costs
        costs += [cpu[0] / amount, (time.process_time() - started) / amount]


def measure() -> Series:
    kinds = ("store", "export", "purge", "erase")
    of_postgres, of_worker = {kind: Line(kind) for kind in kinds}, {kind: Line(kind) for kind in kinds}
    page = Line("PostgreSQL", PROPORTIONAL), Line("instance")
    disk = Line("event"), Line("rollups")
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    with PostgresServer() as postgres:
        all_stored = {size: StoredEvents(postgres, size) for size in SIZES}
        for size, stored in all_stored.items():
            for line, total in zip(disk, stored.disk_bytes(), strict=True):
                line.add(size, total / size)
        for turn in range(1 + ROUNDS):
            for size, stored in all_stored.items():
                costs = {kind: getattr(stored, kind)() for kind in kinds}
                read = stored.read()
                if turn == 0:  # fills caches
                    continue
                for kind, (of_server, of_client) in costs.items():
                    of_postgres[kind].add(size, of_server * 1e6)
                    of_worker[kind].add(size, of_client * 1e6)
                for line, cost in zip(page, read, strict=True):
                    line.add(size, cost * 1e3)
        for stored in all_stored.values():
            stored.close()
    return Series(
        "stored events",
        [
            Panel("one event, PostgreSQL", "us of CPU", list(of_postgres.values())),
            Panel("one event, worker", "us of CPU", list(of_worker.values())),
            Panel(f"page of {SHOWN_DAYS} days", "ms of CPU", [*page]),
            Panel("disk space of one, PostgreSQL", "bytes", [*disk]),
        ],
    )


def _visitor() -> HashedVisitor:
    return HashedVisitor(VISITOR_PREFIX + secrets.token_hex(PSEUDONYM_LENGTH)[: PSEUDONYM_LENGTH - 1])


def _batch(persons: list[HashedVisitor], now: datetime, within: timedelta) -> list[AcceptedEvent]:
    """Return a batch with the usual shares of each event."""
    names = random.choices(list(events.SHARES), list(events.SHARES.values()), k=BATCH)  # noqa: S311
    times = [now - within * random.random() for _ in names]  # noqa: S311
    return [
        AcceptedEvent(persons[number % len(persons)].pseudonym, 0, _event(name, time))
        for number, (name, time) in enumerate(zip(names, times, strict=True))
    ]


def _event(name: str, time: datetime) -> Event:
    path = random.choice(events.PATHS)  # noqa: S311
    return Event(secrets.token_hex(16), name, BY_NAME[name].category, {"path": path}, time)


def _time_of(connection: Connection, number: int) -> datetime:
    """Return the time of the event with that index, oldest first."""
    times = select(table.c.occurred_at).order_by(table.c.occurred_at).offset(number).limit(1)
    time: datetime = connection.execute(times).scalar_one()
    return time
