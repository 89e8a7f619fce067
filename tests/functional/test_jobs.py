"""Analyses under kills: none is lost or done twice, and each outcome causes one notification. Rows are counted in SQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import NullPool, create_engine, text

from harness.fleet import NO_RATE_LIMITS, Fleet
from harness.processes import PATIENCE_SECONDS
from harness.scale import count
from harness.servers import (
    PROGRAMS,
    Instance,
    PostgresServer,
    RedisServer,
    Worker,
    embedded_environment,
    fleet_environment,
    migrate,
    wait_until,
)
from harness.users import User

GATED_GIT = """#!/bin/sh
while [ -e {folder}/shut ]; do touch {folder}/waiting; sleep 0.05; done
for argument; do if grep -qs poison "${{argument#--git-dir=}}/HEAD"; then kill -9 $PPID; fi; done
exec {git} "$@"
"""


class Workshop:
    """Small repositories, and a git that waits while the gate is shut, and that kills its caller for the branch `poison`."""

    def __init__(self, folder: Path) -> None:
        self.roots = folder / "roots"
        self.roots.mkdir()
        self._folder = folder
        self._real_git = subprocess.check_output(["/bin/sh", "-c", "command -v git"], text=True).strip()
        program = folder / "bin" / "git"
        program.parent.mkdir()
        program.write_text(GATED_GIT.format(folder=folder, git=self._real_git))
        program.chmod(0o755)
        path = f"{program.parent}:{PROGRAMS}:{os.environ['PATH']}"
        self.environment = {"REPOSITORY_ROOTS": str(self.roots), "PATH": path, "TMPDIR": str(folder), **NO_RATE_LIMITS}

    def repository(self, name: str) -> str:
        path = self.roots / name
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        for arguments in (
            ["init", "-q", f"--initial-branch={name}", str(path)],
            ["-C", str(path), *identity, "commit", "-q", "--allow-empty", "-m", "first"],
        ):
            subprocess.run([self._real_git, *arguments], check=True)
        return str(path)

    def shut(self) -> None:
        (self._folder / "shut").touch()

    def open(self) -> None:
        (self._folder / "shut").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all repositories and open the gate."""
        for path in self.roots.iterdir():
            shutil.rmtree(path)
        self.open()

    def wait_for_work(self) -> None:
        """Wait until an analysis waits at the gate."""
        waiting = self._folder / "waiting"
        waiting.unlink(missing_ok=True)
        wait_until(waiting.exists, what="an analysis to wait at the gate")

    def children(self) -> list[psutil.Process]:
        """Return the processes of all analyses."""
        return [process for process in psutil.process_iter(["cmdline", "environ"]) if self._is_child(process)]

    def _is_child(self, process: psutil.Process) -> bool:
        words, variables = process.info["cmdline"] or [], process.info["environ"] or {}
        return "app.analysis" in words and variables.get("TMPDIR") == str(self._folder)


class Rows:
    """Queries for the rows of the database."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=NullPool)

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        with self._engine.begin() as connection:
            result = connection.execute(text(statement), parameters)
            return [row[0] if len(row) == 1 else tuple(row) for row in result] if result.returns_rows else []

    def clear(self) -> None:
        """Delete all rows. The sequences continue, so that no instance has cached what has the same ID."""
        names = self.query("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        self.query(f"TRUNCATE {', '.join(name for name in names if name != 'alembic_version')}")

    def statuses(self) -> list[str]:
        return self.query("SELECT status FROM analyses ORDER BY id")

    def attempts(self) -> list[int]:
        return self.query("SELECT attempts FROM analyses ORDER BY id")

    def repository_path(self) -> str:
        (found,) = self.query("SELECT id FROM repositories")
        return f"/api/repositories/{found}"

    def reports(self) -> int:
        found: int = self.query("SELECT count(*) FROM analyses WHERE report IS NOT NULL")[0]
        return found

    def notifications(self) -> list[str]:
        return self.query("SELECT type FROM notifications ORDER BY user_id, seq")

    def wait_for(self, *statuses: str, timeout: float = PATIENCE_SECONDS) -> None:
        try:
            wait_until(lambda: self.statuses() == list(statuses), timeout, f"{statuses}")
        except AssertionError as error:
            raise AssertionError(f"{error}, where there is {self.statuses()}") from None


@pytest.fixture(scope="module")
def shared_workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def workshop(shared_workshop: Workshop) -> Workshop:
    shared_workshop.clear()
    return shared_workshop


@pytest.fixture(scope="module")
def shared_fleet(postgres_server: PostgresServer, shared_workshop: Workshop) -> Iterator[Fleet]:
    with Fleet(postgres_server, size=3, settings=shared_workshop.environment) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    """Three instances without data. The tests start the workers."""
    shared_fleet.redis.flush()
    Rows(shared_fleet.database_url).clear()
    return shared_fleet


@pytest.fixture
def rows(fleet: Fleet) -> Rows:
    return Rows(fleet.database_url)


StartWorker = Callable[[Instance], Worker]


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Start a job worker in the fleet of an instance."""
    with ExitStack() as stack:

        def start(instance: Instance) -> Worker:
            worker = stack.enter_context(Worker({**instance.environment, "INSTANCE_ID": "worker"}))
            stack.callback(lambda: sys.stdout.write(worker.log()))  # which pytest shows where a test fails
            return worker

        yield start


def add(user: User, url: str) -> httpx.Response:
    return user.post("/api/repositories", url=url)


def add_one(user: User, url: str) -> int:
    """Add a repository and return the ID of its analysis."""
    response = add(user, url)
    assert response.status_code == 202, response.text
    found: int = response.json()["analysis"]["id"]
    return found


def test_analysis_runs_from_request_to_report(fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows) -> None:
    instance = fleet.instances[0]
    user = User(instance).register()
    analysis = add_one(user, workshop.repository("one"))
    start_worker(instance)
    rows.wait_for("succeeded")
    found = user.get(f"/api/analyses/{analysis}").json()
    assert (found["status"], found["progress"], found["report"]["commits"]) == ("succeeded", 100, 1)
    assert add_one(user, str(workshop.roots / "one")) == analysis  # it is fresh
    assert rows.notifications() == ["analysis.succeeded"]


def test_job_of_a_killed_worker_is_done_by_another(
    fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows
) -> None:
    instance = fleet.instances[0]
    user = User(instance).register()
    workshop.shut()
    first = start_worker(instance)
    add_one(user, workshop.repository("one"))
    workshop.wait_for_work()
    first.send(signal.SIGKILL)
    first.wait()
    wait_until(lambda: not workshop.children(), what="the killed worker's child to be gone")
    assert rows.statuses() == ["running"]
    workshop.open()
    start_worker(instance)
    rows.wait_for("succeeded")
    assert (rows.attempts(), rows.reports(), rows.notifications()) == ([2], 1, ["analysis.succeeded"])


def test_stopping_worker_releases_its_job(fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows) -> None:
    instance = fleet.instances[0]
    user = User(instance).register()
    workshop.shut()
    first = start_worker(instance)
    add_one(user, workshop.repository("one"))
    workshop.wait_for_work()
    assert first.terminate() == 0
    assert (rows.statuses(), rows.attempts(), workshop.children()) == (["queued"], [0], [])
    assert "jobs since the start: 0 finished, 1 released; received SIGTERM" in first.log()
    second = start_worker(instance)
    workshop.wait_for_work()  # its message came at once: the sweep would wait for 20 s
    assert rows.query("SELECT now() - dispatched_at < interval '20 s' FROM analyses") == [True]
    workshop.open()
    rows.wait_for("succeeded")
    assert second.terminate() == 0
    assert (rows.attempts(), rows.reports(), rows.notifications()) == ([1], 1, ["analysis.succeeded"])
    assert "Traceback" not in first.log() + second.log()


def test_crashing_job_fails_after_three_attempts(fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows) -> None:
    instance = fleet.instances[0]
    user = User(instance).register()
    worker = start_worker(instance)
    analysis = add_one(user, workshop.repository("poison"))
    rows.wait_for("failed")
    assert (rows.attempts(), rows.reports(), rows.notifications()) == ([3], 0, ["analysis.failed"])
    assert user.get(f"/api/analyses/{analysis}").json()["error"] == "The analysis of this repository ended unexpectedly."
    assert worker.log().count("started, attempt") == 3


def test_simultaneous_requests_for_one_address_are_one_analysis(
    fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows
) -> None:
    instances = fleet.instances
    users = [User(instance).register() for instance in instances]
    url = workshop.repository("one")
    total = count(12, 30)  # they wait for each other, and get 503 after 1.2 s: 30 need a fast machine
    begin, answers = threading.Barrier(total), []

    def ask(user: User) -> None:
        begin.wait()
        answers.append(add(user, url))

    threads = [threading.Thread(target=ask, args=[users[number % 3]]) for number in range(total)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [202] * total
    assert len({answer.json()["analysis"]["id"] for answer in answers}) == 1
    assert rows.query("SELECT url FROM repositories") == [url]
    start_worker(instances[0])
    rows.wait_for("succeeded")
    assert (rows.reports(), rows.notifications()) == (1, ["analysis.succeeded"] * 3)


def test_running_analysis_is_cancelled(fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows) -> None:
    one, two, _ = fleet.instances
    user, other = User(one).register(), User(two).register()
    url = workshop.repository("one")
    workshop.shut()
    start_worker(one)
    analysis = add_one(user, url)
    assert add_one(other, url) == analysis
    workshop.wait_for_work()
    path = f"/api/analyses/{analysis}"
    assert user.request("DELETE", path).status_code == 409  # the other one waits for it
    assert other.request("DELETE", rows.repository_path()).status_code == 204
    assert other.request("DELETE", path).status_code == 404
    assert user.request("DELETE", path).status_code == 202
    assert user.request("DELETE", path).status_code == 409
    wait_until(lambda: not workshop.children(), what="the analysis to be ended")
    workshop.open()
    assert (rows.statuses(), rows.notifications()) == (["cancelled"], [])
    add_one(user, url)  # the worker is well
    rows.wait_for("cancelled", "succeeded")


def test_analysis_ends_when_its_last_follower_leaves(
    fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows
) -> None:
    instance = fleet.instances[0]
    user = User(instance).register()
    workshop.shut()
    start_worker(instance)
    add_one(user, workshop.repository("one"))
    workshop.wait_for_work()
    assert user.request("DELETE", rows.repository_path()).status_code == 204
    wait_until(lambda: not workshop.children(), what="the analysis to be ended")
    assert rows.statuses() == ["cancelled"]
    rows.query("UPDATE repositories SET due_at = now()")
    wait_until(lambda: not rows.query("SELECT id FROM repositories"), what="the repository to be deleted")


def test_data_loss_in_redis_loses_no_accepted_analysis(database_url: str, workshop: Workshop) -> None:
    rows = Rows(database_url)
    total = count(6, 30)
    urls = [workshop.repository(f"repository-{number}") for number in range(total)]
    with RedisServer() as redis:
        environment = fleet_environment(redis.url, database_url, **workshop.environment)
        with Instance(environment) as instance, Worker(environment), Worker(environment):
            user = User(instance).register()
            for number, url in enumerate(urls):
                if number == total // 3:
                    redis.kill()
                    redis.start()
                wait_until(lambda url=url: add(user, url).status_code == 202, what=f"{url} to be accepted")  # type: ignore[misc]
            redis.flush()
            assert "queued" in rows.statuses()
            redis.restart()
            rows.wait_for(*["succeeded"] * total, timeout=120)
    assert rows.reports() == total
    assert rows.notifications() == ["analysis.succeeded"] * total


def test_fleet_analyses_a_repository_once_a_day(fleet: Fleet, start_worker: StartWorker, workshop: Workshop, rows: Rows) -> None:
    instance = fleet.instances[0]
    user = User(instance).register()
    for number in range(4):
        add_one(user, workshop.repository(f"repository-{number}"))
    workers = [start_worker(instance) for _ in range(2)]
    rows.wait_for(*["succeeded"] * 4)
    rows.query("UPDATE repositories SET due_at = now()")
    rows.wait_for(*["succeeded"] * 8)
    sweeps = sum(worker.log().count("daily analysis of repository") for worker in workers)
    assert (sweeps, rows.query("SELECT count(*) FROM repositories WHERE due_at > now() + interval '23 hours'")) == (4, [4])


@pytest.mark.parametrize(("number", "attempts"), [(signal.SIGTERM, 1), (signal.SIGKILL, 2)])
def test_embedded_instance_continues_jobs_after_a_restart(
    tmp_path: Path, workshop: Workshop, number: signal.Signals, attempts: int
) -> None:
    environment = embedded_environment(tmp_path, **workshop.environment)
    migrate(environment)
    rows = Rows(environment["DATABASE_URL"])
    with Instance(environment) as instance:
        user = User(instance).register()
        workshop.shut()
        add_one(user, workshop.repository("one"))
        workshop.wait_for_work()
        for pid in [instance.pid, *instance.worker_pids()]:
            if number == signal.SIGKILL or pid == instance.pid:
                os.kill(pid, number)
        instance.wait()
        wait_until(lambda: not workshop.children(), what="the analysis to be ended")
        assert rows.statuses() == ["queued" if number == signal.SIGTERM else "running"]
        workshop.open()
        instance.start()
        rows.wait_for("succeeded")
        assert (rows.attempts(), rows.reports(), rows.notifications()) == ([attempts], 1, ["analysis.succeeded"])


def test_short_database_outage_loses_no_result(redis_url: str, workshop: Workshop) -> None:
    with PostgresServer() as postgres:
        url = postgres.create_database()
        environment = fleet_environment(redis_url, url, **workshop.environment)
        migrate(environment)
        with Instance(environment) as instance, Worker(environment) as worker:
            user = User(instance).register()
            workshop.shut()
            add_one(user, workshop.repository("one"))
            workshop.wait_for_work()
            postgres.kill()
            workshop.open()
            wait_until(lambda: "not saved yet: " in worker.log(), what="the outcome to wait")
            postgres.start()
            rows = Rows(url)
            rows.wait_for("succeeded")
            assert (rows.attempts(), rows.reports(), rows.notifications()) == ([1], 1, ["analysis.succeeded"])
