from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.core import instance
from app.database.engine import Database
from app.fleet import consistency as module
from app.fleet import sql_heartbeat
from app.fleet.consistency import ConsistencyCheck, lasting_differences
from app.fleet.sql_heartbeat import SqlHeartbeat
from app.fleet.store import Peer
from app.server.lifecycle import Lifecycle
from harness.servers import wait_until


@pytest.fixture
def postgresql(database_url: str) -> Iterator[Database]:
    database = Database(database_url.replace("postgresql:", "postgresql+psycopg2:"), 2, "test")
    yield database
    database.close()


def member(database: Database, name: str, pool_size: int = 5) -> tuple[ConsistencyCheck, Lifecycle, Peer]:
    me, lifecycle = instance.identify(name), Lifecycle()
    return ConsistencyCheck(me, lifecycle, database, pool_size), lifecycle, Peer(me.nonce, name, "ready", pool_size)


def ready(database: Database, name: str) -> tuple[ConsistencyCheck, Peer]:
    agreement, lifecycle, peer = member(database, name)
    assert lifecycle.check_readiness() == []
    agreement.compare()
    return agreement, peer


def kinds(agreement: ConsistencyCheck) -> list[str]:
    return [found.kind for found in agreement.disagreements()]


def test_one_that_could_not_compare_is_not_ready(postgresql: Database) -> None:
    agreement, _, _ = member(postgresql, "one")
    assert agreement.not_ready_reason() == "database: has not been compared with what the others use yet"
    agreement.compare()
    assert agreement.not_ready_reason() is None


def test_instances_in_both_stores_agree(postgresql: Database) -> None:
    _, other = ready(postgresql, "other")
    agreement, _, _ = member(postgresql, "one")
    agreement.compare()
    agreement.on_heartbeat([other], None)
    assert (agreement.not_ready_reason(), agreement.disagreements(), agreement.instances_on_other_redis()) == (None, [], [])


def test_another_redis_is_seen_in_sql(postgresql: Database) -> None:
    elder, _ = ready(postgresql, "elder")
    agreement, _, _ = member(postgresql, "one")
    agreement.compare()
    agreement.on_heartbeat([], None)
    assert agreement.not_ready_reason() == "uses another redis than elder"
    elder.compare()
    elder.on_heartbeat([], None)
    assert [found.message for found in elder.instances_on_other_redis()] == ["one uses the same database, but another Redis"]


def test_two_newcomers_do_not_hold_each_other_up(postgresql: Database) -> None:
    (one, _, _), (two, _, _) = member(postgresql, "one"), member(postgresql, "two")
    for agreement in (one, two, one):
        agreement.compare()
        agreement.on_heartbeat([], None)
    assert (one.not_ready_reason(), two.not_ready_reason()) == (None, None)


def test_another_database_is_seen_in_redis(postgresql: Database) -> None:
    agreement, _, _ = member(postgresql, "one")
    agreement.compare()
    agreement.on_heartbeat([Peer("nonce", "elder", "ready", 5), Peer("other", "starter", "starting", 5)], None)
    assert agreement.not_ready_reason() == "uses another database than elder"
    assert kinds(agreement) == ["database"]


def test_a_slow_database_is_not_another_one(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = ready(postgresql, "other")
    monkeypatch.setattr(sql_heartbeat, "FRESH", -sql_heartbeat.FRESH)
    agreement, _, _ = member(postgresql, "one")
    agreement.compare()
    agreement.on_heartbeat([other], None)
    assert agreement.not_ready_reason() is None


def test_a_double_is_named_by_where_it_runs(postgresql: Database) -> None:
    agreement, _, _ = member(postgresql, "one")
    agreement.compare()
    agreement.on_heartbeat([], {"hostname": "server-1", "pid": 4711})
    assert agreement.not_ready_reason() == "INSTANCE_ID one is in use by process 4711 on server-1"
    assert kinds(agreement) == ["instance_id"]


def test_who_died_is_forgotten(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(postgresql, "elder")
    agreement, _, _ = member(postgresql, "one")
    agreement.on_heartbeat([], None)
    agreement.compare()
    assert agreement.not_ready_reason() is not None

    def forgotten() -> bool:
        agreement.compare()
        return agreement.not_ready_reason() is None

    wait_until(forgotten, what="a dead instance to be forgotten")


def test_who_leaves_is_forgotten_at_once(postgresql: Database) -> None:
    elder, _ = ready(postgresql, "elder")
    elder.sign_off()
    agreement, _, _ = member(postgresql, "one")
    agreement.on_heartbeat([], None)
    agreement.compare()
    assert agreement.not_ready_reason() is None


def test_the_one_that_breaks_the_limit_of_connections_says_so(postgresql: Database, caplog: pytest.LogCaptureFixture) -> None:
    limit = postgresql.run(sql_heartbeat.connection_limit)
    assert limit == 197
    elder, known = ready(postgresql, "elder")
    agreement, _, peer = member(postgresql, "one", pool_size=100)
    others = [replace(known, connections=98)]
    for _ in range(2):
        agreement.compare()
        agreement.on_heartbeat(others, None)
    assert kinds(agreement) == ["connections"]
    assert [record.getMessage() for record in caplog.records] == [
        "the 2 instances may open 198 database connections, and PostgreSQL allows 197:"
        " lower DATABASE_POOL_SIZE or raise max_connections"
    ]
    elder.on_heartbeat([peer, *others], None)
    assert kinds(elder) == []
    agreement.on_heartbeat([replace(known, connections=97)], None)
    assert kinds(agreement) == []


def test_without_the_table_nothing_is_compared(empty_database_url: str) -> None:
    database = Database(empty_database_url.replace("postgresql:", "postgresql+psycopg2:"), 2, "test")
    agreement, _, _ = member(database, "one")
    agreement.compare()
    assert agreement.not_ready_reason() is not None
    database.close()


def test_old_pulses_are_removed(postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_heartbeat, "KEPT", -sql_heartbeat.KEPT)
    postgresql.run(sql_heartbeat.record, SqlHeartbeat("old", "old", True))
    monkeypatch.undo()
    assert postgresql.run(sql_heartbeat.record, SqlHeartbeat("new", "new", True)) == [SqlHeartbeat("new", "new", True)]


def about(name: str, fingerprint: str, uptime: int) -> dict[str, Any]:
    return {"instance_id": name, "config_fingerprint": fingerprint, "uptime": uptime}


def test_settings_that_differ_for_long_are_a_disagreement() -> None:
    old = module.SETTLED_SECONDS
    (found,) = lasting_differences([about("one", "a", old), about("two", "b", old), about("three", "a", old)])
    assert (found.kind, found.instance_ids) == ("settings", ["two"])


@pytest.mark.parametrize(
    "instances", [[], [("one", "a", 0)], [("one", "a", 500), ("two", "a", 500)], [("one", "a", 500), ("two", "b", 9)]]
)
def test_a_rolling_change_of_settings_is_none(instances: list[tuple[str, str, int]]) -> None:
    assert lasting_differences([about(*one) for one in instances]) == []
