"""All pairs of writing operations on PostgreSQL: one is paused before each statement that takes locks while the other one runs.

If two operations take their locks in different orders, there is a statement before which this ends in a deadlock.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from app.analysis import network
from app.analytics import service as analytics_service
from app.analytics import store as analytics
from app.analytics.events import Event
from app.analytics.exports import store as exports
from app.analytics.exports.jobs import ExportRunner
from app.analytics.exports.service import Exports
from app.analytics.exports.store import Export, ExportLease
from app.analytics.intake import DirectIntake
from app.analytics.person import AnalyticsAccount, ConsentState
from app.analytics.service import Analytics
from app.analytics.store import AcceptedEvent, EventStore
from app.auth import reset_store, token_store
from app.auth import store as accounts
from app.auth.limits import MemoryRateLimiter
from app.auth.passwords import Passwords
from app.auth.resets import PasswordResets, digest_of
from app.auth.service import Accounts
from app.auth.tokens import READ, ApiTokens
from app.core import config
from app.core.callbacks import do_nothing
from app.core.config import Config
from app.core.errors import Problem
from app.core.keyring import Keyring
from app.database import engine
from app.database.engine import Database
from app.database.schema import metadata
from app.jobs.failures import LeaseLost
from app.notifications import channel_store as channels
from app.notifications import store as inbox
from app.notifications.channel_store import ChannelLease
from app.notifications.channels import Channels
from app.notifications.jobs import NotificationDeliverer
from app.notifications.service import Notifications
from app.repositories import store as repositories
from app.repositories.jobs import AnalysisRunner
from app.repositories.service import Repositories
from app.repositories.store import AnalysisLease, Repository
from app.sessions.sql_store import SqlSessionStore
from app.sessions.store import Owner, record_key
from harness.scale import FULL
from harness.servers import PostgresServer, fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL
from tests.unit.repositories.conftest import claimed, report, started

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=400)
STEP_SECONDS = 60.0
SECRET = "x" * 43  # of a link to set a password
EXPIRED_LINKS = ("link of ada", "link of bob")
ABANDONED_ANALYSES = (
    "SELECT 1 FROM analyses LEFT JOIN follows USING (repository_id) WHERE finished_at IS NULL AND user_id IS NULL"
)
TAKES_LOCKS = re.compile(r"INSERT|UPDATE|DELETE|FOR (KEY )?SHARE")


@dataclass
class Scene:
    """Rows that the operations of a pair compete for. Ada and Bob follow `shared`; only Ada follows `own` and `idle`."""

    ada: int
    bob: int
    shared: Repository
    own: Repository
    idle: Repository  # without a live analysis
    analysis: AnalysisLease  # of `shared`
    queued_analysis: int  # of `own`
    export: ExportLease  # of Ada
    consent: ConsentState  # of Ada
    token: int  # of Ada
    delivery: ChannelLease  # of Ada
    unique: Iterator[int] = field(default_factory=itertools.count)

    def event(self, when: datetime = NOW) -> Event:
        return Event(f"event-{next(self.unique)}-{threading.get_ident()}", "clicked", "test", {}, when)


class Side:
    """One of the two processes of a pair: services with a database of their own. It can be paused before a statement."""

    def __init__(self, url: str, settings: Config) -> None:
        self.database = Database(url, 3, "test")
        self.notifications = Notifications(self.database, do_nothing)
        intake = DirectIntake(EventStore(self.database, do_nothing, 365))
        self.analytics = Analytics(settings, self.database, intake, do_nothing)
        self.exports = Exports(self.database, do_nothing)
        self.repositories = Repositories(settings, self.database, self.notifications, do_nothing)
        self.accounts = Accounts(
            settings,
            self.database,
            Passwords(),
            MemoryRateLimiter(),
            before_deletion=self.analytics.erase_account,
            on_deletion=[
                service.erase_account for service in (self.notifications, self.repositories, self.exports, self.analytics)
            ],
        )
        self.tokens = ApiTokens(self.database, MemoryRateLimiter())
        self.resets = PasswordResets(settings, self.database, Passwords(), MemoryRateLimiter(), None)
        keyring = Keyring("encryption", settings.session_encryption_key)
        self.channels = Channels(settings, self.database, keyring)
        self.deliverer = NotificationDeliverer(settings, self.database, self.notifications, keyring)
        self.analyses = AnalysisRunner(settings, self.database, self.notifications, do_nothing)
        self.exporter = ExportRunner(self.database, self.notifications, do_nothing)
        self.sessions = SqlSessionStore(self.database)
        self.statements = 0
        self._pause_before: int | None = None
        self.paused, self.go_on = threading.Event(), threading.Event()
        event.listen(self.database.engine, "before_cursor_execute", self._count)

    def pause_before(self, number: int) -> None:
        """Pause before the n-th statement that takes locks."""
        self.statements, self._pause_before = 0, number
        self.paused.clear()
        self.go_on.clear()

    def _count(self, _connection: object, _cursor: object, statement: str, *_: Any) -> None:
        self.statements += bool(TAKES_LOCKS.search(statement))
        if self.statements == self._pause_before and not self.paused.is_set():
            self.paused.set()
            assert self.go_on.wait(STEP_SECONDS)


Operation = Callable[[Side, Scene], object]


def _session_of(user_id: int) -> str:
    return record_key(f"session of {user_id}")


OPERATIONS: dict[str, Operation] = {
    "add a repository": lambda side, scene: side.repositories.add(scene.bob, scene.own.url),
    "add a new repository": lambda side, scene: side.repositories.add(scene.ada, f"{scene.own.url}/new"),
    "analyse": lambda side, scene: side.repositories.analyse(scene.ada, scene.idle.id),
    "unfollow": lambda side, scene: side.repositories.unfollow(scene.ada, scene.idle.id),
    "unfollow a shared repository": lambda side, scene: side.repositories.unfollow(scene.ada, scene.shared.id),
    "cancel": lambda side, scene: side.repositories.cancel(scene.ada, scene.queued_analysis),
    "start daily analyses": lambda side, _: side.analyses.start_due(),
    "claim an analysis": lambda side, scene: side.database.run(side.analyses.claim, scene.queued_analysis, "other"),
    "renew a lease": lambda side, scene: side.database.run(repositories.leases.renew, scene.analysis),
    "analysis succeeds": lambda side, scene: side.database.run(side.analyses.succeed, scene.analysis, report()),
    "analysis fails": lambda side, scene: side.database.run(side.analyses.fail, scene.analysis, "no"),
    "send lost analyses again": lambda side, _: side.analyses.requeue_lost(),
    "request an export": lambda side, scene: side.exports.request(scene.ada, LONG_AGO, NOW),
    "write a part of an export": lambda side, scene: side.database.run(
        exports.add_part, scene.export, 7, b"part", progress=1, rows=1
    ),
    "export succeeds": lambda side, scene: side.database.run(side.exporter.succeed, scene.export, 1),
    "purge exports": lambda side, _: side.exporter.purge(),
    "send notifications": lambda side, scene: side.database.run(inbox.add, [scene.bob, scene.ada], "message", "Hello", {}),
    "deliver": lambda side, scene: side.database.run(channels.succeed, scene.delivery, 200),
    "give up a delivery": lambda side, scene: side.database.run(side.deliverer._give_up, scene.delivery, 500, "no"),
    "start a delivery": lambda side, _: side.database.run(channels.claim, failing_too=True),
    "add a channel": lambda side, scene: side.channels.create(scene.ada, "feed"),
    "test a channel": lambda side, scene: side.database.run(channels.add_test, scene.delivery.channel.id),
    "purge deliveries": lambda side, _: side.channels.purge(),
    "mark as read": lambda side, scene: side.notifications.mark_read(scene.ada, 1),
    "open a repository": lambda side, scene: side.notifications.mark_opened(scene.ada, "repository_id", scene.shared.id),
    "choose notifications": lambda side, scene: side.notifications.subscribe(scene.ada, {"release.found": False}, inherit=False),
    "choose notifications about a repository": lambda side, scene: side.repositories.subscribe(
        scene.ada, scene.shared.id, {"release.found": False}, inherit=False
    ),
    "purge notifications": lambda side, _: side.notifications.purge(),
    "opt out": lambda side, scene: side.analytics.opt_out(AnalyticsAccount(scene.ada)),
    "opt in": lambda side, scene: side.analytics.opt_in(AnalyticsAccount(scene.ada)),
    "erase events": lambda side, scene: side.analytics.erase(AnalyticsAccount(scene.ada)),
    "store events": lambda side, scene: side.database.run(
        analytics.store_events,
        [AcceptedEvent(scene.consent.pseudonym, scene.consent.version, scene.event()) for _ in range(2)],
        LONG_AGO,
    ),
    "purge events": lambda side, _: side.database.run(analytics.purge_batch, NOW - timedelta(days=30), 100),
    "change the password": lambda side, scene: side.database.run(_change_password, scene.ada),
    "request a link to set a password": lambda side, _: side.resets.create_link("ada@example.org"),
    "set a password under a link": lambda side, _: side.resets.set_password(SECRET, "four eager otters", "192.0.2.1"),
    "create a token": lambda side, scene: side.tokens.create(scene.ada, "n", READ, None, "192.0.2.1"),
    "use a token": lambda side, scene: side.database.run(token_store.record_use, scene.token, NOW, NOW),
    "sign in": lambda side, scene: side.sessions.create(
        record_key(f"new {next(scene.unique)} {threading.get_ident()}"), {"name": b"value"}, 100, Owner(scene.ada, 1), None
    ),
    "save a session": lambda side, scene: side.sessions.merge(_session_of(scene.ada), {}, 100),
    "end all sessions": lambda side, scene: side.sessions.destroy_all(scene.ada, keep=None),
    "delete an account": lambda side, scene: side.accounts.delete_without_password(scene.ada),
    "delete the other account": lambda side, scene: side.accounts.delete_without_password(scene.bob),
}
# They take the locks of another operation of the list.
SIMILAR = (
    "add a new repository",
    "unfollow a shared repository",
    "analysis fails",
    "opt in",
    "delete the other account",
    "write a part of an export",
    "create a token",
    "use a token",
    "open a repository",
    "give up a delivery",
    "start a delivery",
    "add a channel",
    "test a channel",
    "purge deliveries",
    "choose notifications about a repository",
    "choose notifications",
)


def _change_password(connection: Connection, user_id: int) -> None:
    if user := accounts.by_id(connection, user_id):
        accounts.set_password(connection, user, "hash", version=user.password_version + 1)


def build(database: Database) -> Scene:
    ada, bob = (database.run(accounts.add, f"{name}@example.org", "hash").id for name in ("ada", "bob"))
    names = ("shared", "own", "idle")
    shared, own, idle = (database.run(repositories.add_repository, f"https://example.org/{name}", name) for name in names)
    for user_id, repository in ((ada, shared), (bob, shared), (ada, own), (ada, idle)):
        database.run(repositories.follow, user_id, repository.id)
    lease = claimed(database, started(database, shared))
    queued = started(database, own)
    export = database.run(_running_export, ada)
    for user_id, url in ((ada, "1"), (ada, "2"), (bob, "3")):
        database.run(channels.add, user_id, "webhook", url=f"https://hooks.example.org/{url}")
    database.run(inbox.add, [ada, bob], "message", "Hello", {"repository_id": shared.id})
    delivery = database.run(channels.claim, failing_too=True)
    assert delivery is not None
    consent = database.run(analytics.consent, AnalyticsAccount(ada))
    assert consent is not None
    token, _ = ApiTokens(database, MemoryRateLimiter()).create(ada, "n", READ, None, "192.0.2.1")
    database.run(_add_links, [ada, bob])
    scene = Scene(ada, bob, shared, own, idle, lease, queued.id, export, consent, token.id, delivery)
    old = [AcceptedEvent(consent.pseudonym, consent.version, scene.event(NOW - timedelta(days=40))) for _ in range(2)]
    database.run(analytics.store_events, old, LONG_AGO)
    store = SqlSessionStore(database)
    for name, ttl in ((_session_of(ada), 100), (record_key("expired"), -1)):
        store.create(name, {"name": b"value"}, ttl, Owner(ada, 1), None)
    database.run(_let_time_pass)
    return scene


def _script(connection: Connection) -> str:
    """Return statements that replace all rows of the database by the current ones."""
    tables = metadata.sorted_tables
    script = ["SET LOCAL session_replication_role = replica"]  # does not check references, which takes long
    script += [f"DELETE FROM {table.name}" for table in reversed(tables)]  # noqa: S608
    for table in tables:
        if rows := connection.execute(text(f"SELECT json_agg({table.name}) FROM {table.name}")).scalar():  # noqa: S608
            literal = json.dumps(rows).replace("'", "''").replace("%", "%%")
            values = f"json_populate_recordset(NULL::{table.name}, '{literal}')"
            script.append(f"INSERT INTO {table.name} SELECT * FROM {values}")  # noqa: S608
    return ";".join(script)


def _running_export(connection: Connection, user_id: int) -> ExportLease:
    export: Export = exports.add(connection, user_id, LONG_AGO, NOW)
    lease = exports.claim(connection, export.id, "mine")
    assert isinstance(lease, ExportLease)
    exports.add_part(connection, lease, 0, b"part", progress=1, rows=1)
    return lease


def _add_links(connection: Connection, user_ids: list[int]) -> None:
    for user_id, digest in zip(user_ids, EXPIRED_LINKS, strict=True):
        user = accounts.by_id(connection, user_id)
        assert user
        reset_store.add(connection, digest, user, LONG_AGO - timedelta(days=1), LONG_AGO)
    ada = accounts.by_id(connection, user_ids[0])
    assert ada
    reset_store.add(connection, digest_of(SECRET), ada, LONG_AGO - timedelta(days=1), NOW + timedelta(hours=1))


def _let_time_pass(connection: Connection) -> None:
    """Make daily analyses due, the message of a queued analysis lost, and notifications and a failed export old enough."""
    connection.execute(text("UPDATE repositories SET due_at = now() - interval '1 second'"))
    connection.execute(text("UPDATE analyses SET dispatched_at = now() - interval '1 hour' WHERE status = 'queued'"))
    connection.execute(text("UPDATE analyses SET requested_at = now() - interval '1 hour' WHERE status = 'queued'"))
    connection.execute(text("UPDATE inboxes SET head = 2000"))
    connection.execute(text("UPDATE notifications SET created_at = now() - interval '8 days'"))


class Pairs:
    """Runs one operation until its n-th statement, then another one until its end or a lock, then the rest of the first."""

    def __init__(self, first: Side, second: Side, observer: Database) -> None:
        self._first, self._second, self._observer = first, second, observer
        self._scene = build(observer)
        self._rows = observer.run(_script)
        self.errors: list[str] = []

    def count_statements(self, name: str) -> int:
        """Return the number of statements of an operation that take locks."""
        self._restore()
        self._first.pause_before(-1)
        OPERATIONS[name](self._first, self._scene)
        return self._first.statements

    def run(self, one: str, number: int, other: str) -> None:
        self._names = f"{one}, paused before statement {number}, and {other}"
        self._restore()
        self._first.pause_before(number)
        threads = [self._start(one, self._first)]
        while not self._first.paused.wait(0.001) and threads[0].is_alive():
            pass
        threads.append(self._start(other, self._second))
        while threads[1].is_alive() and not self._waits_for_lock():
            threads[1].join(0.005)
        self._first.go_on.set()
        for thread in threads:
            thread.join(STEP_SECONDS)
            assert not thread.is_alive(), self._names
        if self._query(ABANDONED_ANALYSES):
            self._report("an analysis is live that nobody waits for")

    def _start(self, name: str, side: Side) -> threading.Thread:
        thread = threading.Thread(target=self._attempt, args=(name, side))
        thread.start()
        return thread

    def _attempt(self, name: str, side: Side) -> None:
        try:
            OPERATIONS[name](side, self._scene)
        except LeaseLost:
            pass
        except Problem as problem:
            if problem.status >= 500:
                self._report(f"{name}: {problem.__cause__ or problem}")
        except Exception as error:
            self._report(f"{name}: {error!r}")

    def _report(self, error: str) -> None:
        self.errors.append(f"{self._names}: {error}")

    def _restore(self) -> None:
        self._observer.run(lambda connection: connection.exec_driver_sql(self._rows))

    def _waits_for_lock(self) -> bool:
        return bool(self._query("SELECT 1 FROM pg_locks WHERE NOT granted"))

    def _query(self, statement: str) -> list[Any]:
        return self._observer.run(lambda connection: list(connection.execute(text(statement))))


@pytest.fixture(scope="module")
def pairs(postgres_server: PostgresServer) -> Iterator[Pairs]:
    url = postgres_server.create_database().replace("postgresql:", "postgresql+psycopg2:")
    settings = config.load(fleet_environment("redis://127.0.0.1", UNUSED_DATABASE_URL))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "MAX_ATTEMPTS", 1)  # a repeated transaction would hide the deadlock
        patched.setattr(network, "refuse_private", do_nothing)
        for module in (engine, analytics_service):  # a busy machine is no deadlock
            patched.setattr(module, "SQL_TIMEOUT_SECONDS", STEP_SECONDS)
        first, second = (Side(f"{url}?options=-c%20deadlock_timeout%3D20ms", settings) for _ in range(2))
        observer = Database(url, 1, "observer")
        yield Pairs(first, second, observer)
        for database in (first.database, second.database, observer):
            database.close()


def test_no_pair_of_writing_operations_ends_in_a_deadlock_or_an_error(pairs: Pairs) -> None:
    operations = [name for name in OPERATIONS if FULL or name not in SIMILAR]
    statements = {name: pairs.count_statements(name) for name in operations}
    # A deadlock is found whichever operation is paused, so the shorter one is. Before its first statement it has no locks.
    for pair in itertools.combinations_with_replacement(operations, 2):
        one, other = sorted(pair, key=statements.__getitem__)
        for number in range(2, statements[one] + 1):
            pairs.run(one, number, other)
    assert pairs.errors == []
