from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.core import instance
from app.database.engine import Database
from app.fleet import consistency as module
from app.fleet import sql_heartbeat
from app.fleet.consistency import ConsistencyCheck, settings_mismatches
from app.fleet.sql_heartbeat import SqlHeartbeat
from app.fleet.store import Peer
from app.server.lifecycle import Lifecycle
from harness.servers import PostgresServer, wait_until


@pytest.fixture
def postgresql(database_url: str) -> Iterator[Database]:
    database = Database(database_url.replace("postgresql:", "postgresql+psycopg2:"), 2, "test")
    yield database
    database.close()


def member(database: Database, name: str, pool_size: int = 5) -> tuple[ConsistencyCheck, Lifecycle, Peer]:
    me, lifecycle = instance.identify(name), Lifecycle()
    return ConsistencyCheck(me, lifecycle, database, pool_size), lifecycle, Peer(me.nonce, name, "ready", pool_size)


def ready(database: Database, name: str) -> tuple[ConsistencyCheck, Peer]:
    check, lifecycle, peer = member(database, name)
    assert lifecycle.check_readiness() == []
    check.compare()
    return check, peer


def kinds(check: ConsistencyCheck) -> list[str]:
    return [found.kind for found in check.mismatches()]


def test_instance_is_not_ready_before_its_first_comparison(postgresql: Database) -> None:
    check, _, _ = member(postgresql, "one")
    assert check.not_ready_reason() == (
        "this instance has not yet compared its database with that of the others:"
        " check that the database answers and has the table heartbeats"
    )
    check.compare()
    assert check.not_ready_reason() is None


def test_instances_in_both_stores_are_consistent(postgresql: Database) -> None:
    _, other = ready(postgresql, "other")
    check, _, _ = member(postgresql, "one")
    check.compare()
    check.on_heartbeat([other], None)
    assert (check.not_ready_reason(), check.mismatches(), check.instances_on_other_redis()) == (None, [], [])


def test_another_redis_is_detected_through_sql(postgresql: Database) -> None:
    older, _ = ready(postgresql, "older")
    check, _, _ = member(postgresql, "one")
    check.compare()
    check.on_heartbeat([], None)
    assert check.not_ready_reason() == "this instance uses another Redis than older: compare REDIS_URL"
    older.compare()
    older.on_heartbeat([], None)
    assert [found.message for found in older.instances_on_other_redis()] == [
        "one uses the same database but another Redis: compare REDIS_URL"
    ]


def test_two_starting_instances_do_not_block_each_other(postgresql: Database) -> None:
    (one, _, _), (two, _, _) = member(postgresql, "one"), member(postgresql, "two")
    for check in (one, two, one):
        check.compare()
        check.on_heartbeat([], None)
    assert (one.not_ready_reason(), two.not_ready_reason()) == (None, None)


def test_another_database_is_detected_through_redis(postgresql: Database) -> None:
    check, _, _ = member(postgresql, "one")
    check.compare()
    check.on_heartbeat([Peer("nonce", "older", "ready", 5), Peer("other", "starting", "starting", 5)], None)
    assert check.not_ready_reason() == "this instance uses another database than older: compare DATABASE_URL"
    assert kinds(check) == ["database"]


def test_slow_database_is_not_taken_for_another_one(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = ready(postgresql, "other")
    monkeypatch.setattr(sql_heartbeat, "FRESH", -sql_heartbeat.FRESH)
    check, _, _ = member(postgresql, "one")
    check.compare()
    check.on_heartbeat([other], None)
    assert check.not_ready_reason() is None


def test_duplicate_is_named_with_its_process_and_host(postgresql: Database) -> None:
    check, _, _ = member(postgresql, "one")
    check.compare()
    check.on_heartbeat([], {"hostname": "server-1", "pid": 4711})
    assert check.not_ready_reason() == ("INSTANCE_ID one is in use by process 4711 on server-1: give each instance its own")
    assert kinds(check) == ["instance_id"]


def test_instance_that_starts_on_a_read_only_database_becomes_ready(
    database_url: str, postgresql: Database, postgres_server: PostgresServer
) -> None:
    check, lifecycle, _ = member(postgresql, "one")
    with postgres_server.read_only(database_url):
        check.compare()
        check.on_heartbeat([Peer("nonce", "started-before-it", "ready", 5)], None)  # which could not store its heartbeat either
        assert (check.not_ready_reason(), check.mismatches()) == (None, [])
        assert lifecycle.check_readiness() == []
    check.compare()  # drops the last connection to the read-only server
    check.compare()
    assert [heartbeat.instance_id for heartbeat in postgresql.run(sql_heartbeat.read)] == ["one"]


def test_another_redis_is_detected_on_a_read_only_database(
    database_url: str, postgresql: Database, postgres_server: PostgresServer
) -> None:
    ready(postgresql, "older")
    check, _, _ = member(postgresql, "one")
    with postgres_server.read_only(database_url):
        check.compare()
    check.on_heartbeat([], None)
    assert check.not_ready_reason() == "this instance uses another Redis than older: compare REDIS_URL"


def test_heartbeat_of_a_dead_instance_becomes_stale(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_heartbeat, "FRESH", timedelta(seconds=0.5))
    ready(postgresql, "older")
    check, _, _ = member(postgresql, "one")
    check.on_heartbeat([], None)
    check.compare()
    assert check.not_ready_reason() is not None

    def is_stale() -> bool:
        check.compare()
        return check.not_ready_reason() is None

    wait_until(is_stale, what="the heartbeat to become stale")


def test_heartbeat_is_deleted_on_sign_off(postgresql: Database) -> None:
    older, _ = ready(postgresql, "older")
    older.sign_off()
    check, _, _ = member(postgresql, "one")
    check.on_heartbeat([], None)
    check.compare()
    assert check.not_ready_reason() is None


def test_only_the_newest_instance_reports_an_exceeded_connection_limit(
    postgresql: Database, caplog: pytest.LogCaptureFixture
) -> None:
    limit = postgresql.run(sql_heartbeat.connection_limit)
    assert limit == 197
    older, known = ready(postgresql, "older")
    check, _, peer = member(postgresql, "one", pool_size=100)
    others = [replace(known, connections=98)]
    for _ in range(2):
        check.compare()
        check.on_heartbeat(others, None)
    assert kinds(check) == ["connections"]
    assert [record.getMessage() for record in caplog.records] == [
        "2 instances may open 198 database connections, but PostgreSQL allows 197:"
        " lower DATABASE_POOL_SIZE or raise max_connections"
    ]
    older.on_heartbeat([peer, *others], None)
    assert kinds(older) == []
    check.on_heartbeat([replace(known, connections=97)], None)
    assert kinds(check) == []


def test_stated_connection_limit_is_compared_instead_of_the_limit_of_the_server(postgresql: Database) -> None:
    me, lifecycle = instance.identify("one"), Lifecycle()
    check = ConsistencyCheck(me, lifecycle, postgresql, 5, connection_limit=4)
    check.compare()
    assert [found.message for found in check.mismatches()] == [
        "1 instances may open 5 database connections, but DATABASE_CONNECTION_LIMIT allows 4:"
        " lower DATABASE_POOL_SIZE or raise this limit"
    ]


def test_connections_are_not_compared_with_the_limit_of_the_server_behind_a_pooler(database_url: str) -> None:
    url = database_url.replace("postgresql:", "postgresql+psycopg2:")
    with closing(Database(url, 2, "test", pooler="transaction")) as database:
        check, _, _ = member(database, "one", pool_size=1000)
        check.compare()
    assert (check.not_ready_reason(), check.mismatches()) == (None, [])


def test_missing_table_keeps_the_instance_from_becoming_ready(empty_database_url: str) -> None:
    database = Database(empty_database_url.replace("postgresql:", "postgresql+psycopg2:"), 2, "test")
    check, _, _ = member(database, "one")
    check.compare()
    assert check.not_ready_reason() is not None
    database.close()


def test_old_heartbeats_are_deleted(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_heartbeat, "KEPT", -sql_heartbeat.KEPT)
    postgresql.run(sql_heartbeat.record, SqlHeartbeat("old", "old", True))
    monkeypatch.undo()
    assert postgresql.run(sql_heartbeat.record, SqlHeartbeat("new", "new", True)) == [SqlHeartbeat("new", "new", True)]


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
