"""Exports by real workers are complete, exist once, survive kills, and can be downloaded from every instance."""

from __future__ import annotations

import csv
import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import psycopg2
import pytest

from harness.processes import PATIENCE_SECONDS
from harness.servers import Instance, Worker, promote, wait_until
from harness.users import User
from tests.functional.conftest import StartFleet

EVENTS = 50_000
FIRST = "2026-01-01"
PATH = "/api/analytics/exports"
ORDER = {"from": "2026-01-01", "to": "2026-02-01", "format": "csv"}
GATE = 7  # the lock that a worker waits for before it writes the third part

# Two in each second, of a hundred people, and some before and after the time that is asked for.
INSERT = f"""
INSERT INTO analytics_events (person, event_id, name, category, path, properties, occurred_at)
SELECT md5((n % 100)::text), 'event-' || n, 'page_viewed', 'navigation', '/', json_build_object('path', '/', 'n', n),
    timestamptz '{FIRST} 00:00:00+00' + floor(n / 2.0) * interval '1 second'
FROM generate_series(-10, {EVENTS - 1}) AS n
UNION ALL
SELECT md5('late'), 'late', 'page_viewed', 'navigation', '/', '{{}}', timestamptz '2026-02-01 00:00:00+00'
"""  # noqa: S608
SHUT = f"""
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$;
CREATE TRIGGER gate BEFORE INSERT ON analytics_export_parts FOR EACH ROW WHEN (NEW.number = 2) EXECUTE FUNCTION wait_at_gate()
"""

StartWorker = Callable[[Instance], Worker]


class Rows:
    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self._url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def exports(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT status, attempts, progress, rows FROM analytics_exports ORDER BY id")

    def parts(self) -> int:
        found: int = self.query("SELECT count(*) FROM analytics_export_parts")[0][0]
        return found

    def notifications(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT type, title FROM notifications ORDER BY user_id, seq")

    def wait_for(self, status: str, timeout: float = PATIENCE_SECONDS) -> None:
        wait_until(lambda: self.exports()[0][0] == status, timeout, f"the export to be {status}")

    @contextmanager
    def shut_gate(self) -> Iterator[None]:
        self.query(SHUT)
        with closing(psycopg2.connect(self._url)) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_lock({GATE})")
            yield


@pytest.fixture
def rows(database_url: str) -> Rows:
    return Rows(database_url)


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Start a job worker in the fleet of an instance."""
    with ExitStack() as stack:

        def start(instance: Instance) -> Worker:
            worker = stack.enter_context(Worker({**instance.environment, "INSTANCE_ID": "worker"}))
            stack.callback(lambda: sys.stdout.write(worker.log()))  # which pytest shows where a test fails
            return worker

        yield start


def administrator(*instances: Instance) -> User:
    user = User(*instances).register()
    promote(instances[0].environment, user.email)
    return user


def order(user: User, instance: Instance) -> int:
    response = user.client.post(f"{instance.url}{PATH}", json=ORDER)
    assert response.status_code == 202, response.text
    found: int = response.json()["job"]["id"]
    return found


def download(user: User, instance: Instance, export: int) -> httpx.Response:
    return user.client.get(f"{instance.url}{PATH}/{export}")


def assert_complete(response: httpx.Response) -> None:
    """Assert that the export has each event once, in the order of time, and nothing else."""
    assert (response.status_code, response.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    header, *found = csv.reader(io.StringIO(response.content.decode("utf-8-sig"), newline=""))
    assert header == ["id", "occurred_at", "name", "category", "properties"]
    numbers = [int(row[0].removeprefix("event-")) for row in found]
    assert sorted(numbers) == list(range(EVENTS))
    assert [number // 2 for number in numbers] == sorted(number // 2 for number in numbers)
    last = found[numbers.index(EVENTS - 1)]
    assert last[1:] == ["2026-01-01T06:56:39.000Z", "page_viewed", "navigation", f'{{"n":{EVENTS - 1},"path":"/"}}']


def test_export_is_downloaded_from_another_instance(start_fleet: StartFleet, start_worker: StartWorker, rows: Rows) -> None:
    one, two = start_fleet(2)
    rows.query(INSERT)
    user = administrator(one)
    export = order(user, one)
    assert download(user, two, export).status_code == 409
    start_worker(one)
    rows.wait_for("succeeded")
    assert rows.exports() == [("succeeded", 1, 100, EVENTS)]
    assert rows.parts() > 3
    assert_complete(download(user, two, export))
    assert rows.notifications() == [("export.ready", "Your export of 50,000 events is ready")]
    assert administrator(two).get(f"{PATH}/{export}").status_code == 404


def test_export_of_a_killed_worker_is_written_again(start_fleet: StartFleet, start_worker: StartWorker, rows: Rows) -> None:
    (instance,) = start_fleet(1)
    rows.query(INSERT)
    user = administrator(instance)
    with rows.shut_gate():
        first = start_worker(instance)
        export = order(user, instance)
        wait_until(lambda: rows.parts() == 2, what="the first parts to be written")
        first.send(signal.SIGKILL)
        first.wait()
    assert [row[:2] for row in rows.exports()] == [("running", 1)]
    # Had the next one begun with what is there, this event would be missing.
    rows.query("UPDATE analytics_export_parts SET content = '' WHERE number = 0")
    second = start_worker(instance)
    rows.wait_for("succeeded", timeout=90)
    assert rows.exports() == [("succeeded", 2, 100, EVENTS)]
    assert_complete(download(user, instance, export))
    assert rows.notifications() == [("export.ready", "Your export of 50,000 events is ready")]
    assert second.terminate() == 0
    assert "Traceback" not in second.log()


def test_stopping_worker_releases_its_job(start_fleet: StartFleet, start_worker: StartWorker, rows: Rows) -> None:
    (instance,) = start_fleet(1)
    rows.query(INSERT)
    user = administrator(instance)
    with rows.shut_gate():
        first = start_worker(instance)
        export = order(user, instance)
        wait_until(lambda: rows.parts() == 2, what="the first parts to be written")
        assert first.terminate() == 0
        assert rows.exports() == [("queued", 0, 0, 0)]
    start_worker(instance)
    rows.wait_for("succeeded")
    assert rows.exports() == [("succeeded", 1, 100, EVENTS)]
    assert_complete(download(user, instance, export))
    assert "Traceback" not in first.log()
