from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from app.core import instance
from app.database.engine import Database
from app.fleet import consistency as module
from app.fleet import sql_heartbeat
from app.fleet.consistency import ConsistencyCheck, settings_mismatches
from app.fleet.store import FleetTotals, Peer
from app.server.lifecycle import Lifecycle
from harness.servers import PostgresServer, wait_until


@pytest.fixture
def postgresql(database_url: str) -> Iterator[Database]:
    database = Database(database_url.replace("postgresql:", "postgresql+psycopg2:"), 2, "test")
    yield database
    database.close()


@dataclass
class Member:
    check: ConsistencyCheck
    lifecycle: Lifecycle
    peer: Peer  # this instance as others see it


def member(database: Database, name: str, *peers: Peer, pool_size: int = 5) -> Member:
    """`peers` is what the instance finds in the registry."""
    me, lifecycle = instance.identify(name), Lifecycle()
    check = ConsistencyCheck(me, lifecycle, database, pool_size, lambda: list(peers))
    return Member(check, lifecycle, Peer(me.nonce, name, "ready"))


def compared(database: Database, name: str, *peers: Peer) -> ConsistencyCheck:
    """A starting instance that has compared its stores."""
    check = member(database, name, *peers).check
    check.compare()
    return check


def ready(database: Database, name: str) -> Member:
    one = member(database, name)
    assert one.lifecycle.check_readiness() == []
    one.check.compare()
    return one


def totals(instances: int, connections: int) -> FleetTotals:
    return FleetTotals(instances, connections, ready=instances, sockets=0, fewest_sockets=0, is_changing=False)


def kinds(check: ConsistencyCheck) -> list[str]:
    return [found.kind for found in check.mismatches()]


def test_instance_is_not_ready_before_its_first_comparison(postgresql: Database) -> None:
    check = member(postgresql, "one").check
    assert check.not_ready_reason() == (
        "this instance has not yet compared its database with that of the others:"
        " check that the database answers and has the table heartbeats"
    )
    check.compare()
    assert check.not_ready_reason() is None


def test_instances_in_both_stores_are_consistent(postgresql: Database) -> None:
    other = ready(postgresql, "other").peer
    one = member(postgresql, "one", other)
    check = one.check
    check.compare()
    assert (check.not_ready_reason(), check.mismatches()) == (None, [])
    assert check.instances_on_other_redis([other.nonce, one.peer.nonce]) == []


def test_another_redis_is_detected_through_sql(postgresql: Database) -> None:
    older = ready(postgresql, "older")
    check = compared(postgresql, "one")
    assert check.not_ready_reason() == "this instance uses another Redis than older: compare REDIS_URL"
    assert [found.message for found in older.check.instances_on_other_redis([older.peer.nonce])] == [
        "one uses the same database but is not registered in this Redis: compare REDIS_URL"
    ]


def test_two_starting_instances_do_not_block_each_other(postgresql: Database) -> None:
    one, two = member(postgresql, "one").check, member(postgresql, "two").check
    for check in (one, two, one):
        check.compare()
    assert (one.not_ready_reason(), two.not_ready_reason()) == (None, None)


def test_another_database_is_detected_through_redis(postgresql: Database) -> None:
    check = compared(postgresql, "one", Peer("nonce", "older", "ready"), Peer("other", "starting", "starting"))
    assert check.not_ready_reason() == "this instance uses another database than older: compare DATABASE_URL"
    assert kinds(check) == ["database"]


def test_slow_database_is_not_taken_for_another_one(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ready(postgresql, "other").peer
    monkeypatch.setattr(sql_heartbeat, "FRESH", -sql_heartbeat.FRESH)
    assert compared(postgresql, "one", other).not_ready_reason() is None


def test_duplicate_is_named_with_its_process_and_host(postgresql: Database) -> None:
    check = compared(postgresql, "one")
    check.on_heartbeat(totals(2, 10), {"hostname": "server-1", "pid": 4711})
    assert check.not_ready_reason() == ("INSTANCE_ID one is in use by process 4711 on server-1: give each instance its own")
    assert kinds(check) == ["instance_id"]


def test_instance_that_starts_on_a_read_only_database_becomes_ready(
    database_url: str, postgresql: Database, postgres_server: PostgresServer
) -> None:
    one = member(postgresql, "one", Peer("nonce", "started-before-it", "ready"))  # which could not store its heartbeat either
    with postgres_server.read_only(database_url):
        one.check.compare()
        assert (one.check.not_ready_reason(), one.check.mismatches()) == (None, [])
        assert one.lifecycle.check_readiness() == []
    one.check.compare()  # drops the last connection to the read-only server
    one.check.compare()
    assert [heartbeat.instance_id for heartbeat in postgresql.run(sql_heartbeat.read)] == ["one"]


def test_another_redis_is_detected_on_a_read_only_database(
    database_url: str, postgresql: Database, postgres_server: PostgresServer
) -> None:
    ready(postgresql, "older")
    with postgres_server.read_only(database_url):
        check = compared(postgresql, "one")
    assert check.not_ready_reason() == "this instance uses another Redis than older: compare REDIS_URL"


def test_heartbeat_of_a_dead_instance_becomes_stale(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_heartbeat, "FRESH", timedelta(seconds=0.5))
    ready(postgresql, "older")
    check = compared(postgresql, "one")
    assert check.not_ready_reason() is not None

    def is_stale() -> bool:
        check.compare()
        return check.not_ready_reason() is None

    wait_until(is_stale, what="the heartbeat to become stale")


def test_heartbeat_is_deleted_on_sign_off(postgresql: Database) -> None:
    ready(postgresql, "older").check.sign_off()
    assert compared(postgresql, "one").not_ready_reason() is None


def test_ready_instance_reads_neither_the_registry_nor_the_heartbeats_of_others(
    postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ready(postgresql, "one")
    monkeypatch.setattr(one.check, "_list_peers", lambda: pytest.fail("read the registry"))
    statements: list[str] = []
    event.listen(postgresql.engine, "before_cursor_execute", lambda *details: statements.append(details[2]))
    one.check.compare()
    assert [statement.split()[0] for statement in statements] == ["INSERT"]


def test_only_the_newest_instance_reports_an_exceeded_connection_limit(
    postgresql: Database, caplog: pytest.LogCaptureFixture
) -> None:
    limit = postgresql.run(sql_heartbeat.connection_limit)
    assert limit == 197
    older = ready(postgresql, "older")
    check = member(postgresql, "one", older.peer, pool_size=100).check
    for _ in range(2):
        check.compare()
        check.on_heartbeat(totals(2, 198), None)
    assert kinds(check) == ["connections"]
    assert [record.getMessage() for record in caplog.records] == [
        "2 instances may open 198 database connections, but PostgreSQL allows 197:"
        " lower DATABASE_POOL_SIZE or raise max_connections"
    ]
    older.check.on_heartbeat(totals(2, 198), None)
    assert kinds(older.check) == []
    check.on_heartbeat(totals(2, 197), None)
    assert kinds(check) == []


def test_stated_connection_limit_is_compared_instead_of_the_limit_of_the_server(postgresql: Database) -> None:
    me, lifecycle = instance.identify("one"), Lifecycle()
    check = ConsistencyCheck(me, lifecycle, postgresql, 5, list, connection_limit=4)
    check.compare()
    assert [found.message for found in check.mismatches()] == [
        "1 instances may open 5 database connections, but DATABASE_CONNECTION_LIMIT allows 4:"
        " lower DATABASE_POOL_SIZE or raise this limit"
    ]


def test_connections_are_not_compared_with_the_limit_of_the_server_behind_a_pooler(database_url: str) -> None:
    url = database_url.replace("postgresql:", "postgresql+psycopg2:")
    with closing(Database(url, 2, "test", pooler="transaction")) as database:
        check = member(database, "one", pool_size=1000).check
        check.compare()
    assert (check.not_ready_reason(), check.mismatches()) == (None, [])


def test_missing_table_keeps_the_instance_from_becoming_ready(empty_database_url: str) -> None:
    database = Database(empty_database_url.replace("postgresql:", "postgresql+psycopg2:"), 2, "test")
    assert compared(database, "one").not_ready_reason() is not None
    database.close()


def test_starting_instance_deletes_old_heartbeats(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(postgresql, "old")
    compared(postgresql, "new")
    assert len(postgresql.run(sql_heartbeat.read)) == 2
    monkeypatch.setattr(sql_heartbeat, "KEPT", -sql_heartbeat.KEPT)
    compared(postgresql, "newest")
    assert postgresql.run(sql_heartbeat.read) == []


def about(name: str, fingerprint: str, uptime: int) -> dict[str, Any]:
    return {"instance_id": name, "config_fingerprint": fingerprint, "uptime": uptime}


def test_settings_that_differ_after_a_rollout_are_a_mismatch() -> None:
    old = module.ROLLOUT_SECONDS
    (found,) = settings_mismatches([about("one", "a", old), about("two", "b", old), about("three", "a", old)])
    assert (found.kind, found.instance_ids) == ("settings", ["two"])


@pytest.mark.parametrize(
    "instances", [[], [("one", "a", 0)], [("one", "a", 500), ("two", "a", 500)], [("one", "a", 500), ("two", "b", 9)]]
)
def test_settings_may_differ_during_a_rollout(instances: list[tuple[str, str, int]]) -> None:
    assert settings_mismatches([about(*one) for one in instances]) == []
