"""Workers are part of the fleet: they are listed, watched and missed. One instance and one worker, one test after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from harness import web
from harness.fleet import Fleet
from harness.servers import Instance, PostgresServer, Worker, promote, wait_until
from harness.users import User
from tests.functional.test_doctor import examine

ORDER = {"from": "2026-01-01", "to": "2026-02-01", "format": "csv"}
SECONDS = 60  # for what takes 10 s or 15 s on an idle machine


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer) -> Iterator[Fleet]:
    """One instance, without a worker."""
    with Fleet(postgres_server, size=1) as fleet:
        yield fleet


@pytest.fixture
def instance(fleet: Fleet) -> Instance:
    return fleet.instances[0]


@pytest.fixture(scope="module")
def admin(fleet: Fleet) -> User:
    user = User(*fleet.instances).register()
    promote(fleet.environment, user.email)
    return user


@pytest.fixture(scope="module")
def process(fleet: Fleet) -> Iterator[Worker]:
    with Worker({**fleet.environment, "INSTANCE_ID": "one"}) as worker:
        yield worker


@pytest.fixture
def worker(process: Worker, admin: User) -> Worker:
    """A worker that runs and is listed."""
    if process.status() is not None:
        process.start()
    process.wait_working()
    wait_until(lambda: states(admin) == ["running"], SECONDS, "the worker to be listed")
    return process


def workers(admin: User) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.get("/api/fleet").json()["workers"]
    return found


def states(admin: User) -> list[str]:
    return [worker["status"] for worker in workers(admin)]


def last_stop(admin: User) -> dict[str, Any]:
    stops = [stop for stop in admin.get("/api/fleet").json()["stops"] if stop["role"] == "worker"]
    return stops[0] if stops else {}


def checks(instance: Instance) -> dict[str, Any]:
    found: dict[str, Any] = web.get(f"{instance.url}/health").json()["checks"]
    return found


def metric(instance: Instance, series: str) -> float:
    text = web.get(f"{instance.url}/metrics").text
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_work_without_a_worker_is_named_by_health_and_doctor(fleet: Fleet, admin: User, instance: Instance) -> None:
    assert admin.post("/api/analytics/exports", **ORDER).status_code == 202
    wait_until(lambda: checks(instance)["workers"]["status"] == "warn", SECONDS, "health to miss a worker")
    assert checks(instance)["workers"] == {
        "status": "warn",
        "latency_ms": None,
        "reason": "no_worker",
        "output": "no worker runs, and work is waiting",
    }
    assert checks(instance)["redis"].get("reason") in (None, "slow")  # the machine may be busy
    assert web.get(f"{instance.url}/health").status_code == 200
    assert "workers: no worker runs, and work is waiting: start one with python -m app.worker" in instance.log()
    found = examine(fleet.environment)
    (line,) = [line for line in found.all_lines("fail") if "worker" in line]
    assert re.fullmatch(r"fleet: no worker runs, and work is waiting \(queued jobs: 1, analytics events: \d+\)", line)
    assert found.advice(line).startswith("Start one with the environment of the instances: python -m app.worker.")
    assert (workers(admin), metric(instance, "reporadar_workers")) == ([], 0)
    assert "No worker runs, and work is waiting; 1 of 1 instance is ready" in admin.get("/admin/fleet").text


def test_worker_is_listed_and_does_the_work(fleet: Fleet, admin: User, instance: Instance, worker: Worker) -> None:
    (about,) = workers(admin)
    assert (about["instance_id"], about["pid"]) == ("one-worker", worker.pid)
    assert [entry["instance_id"] for entry in admin.get("/api/fleet").json()["instances"]] == ["instance-1"]
    page = admin.get("/admin/fleet").text
    assert f'id="worker-{about["nonce"]}"' in page
    wait_until(lambda: checks(instance)["workers"]["status"] == "pass", SECONDS, "health to pass")
    count = 'reporadar_job_seconds_count{kind="export",outcome="succeeded"}'
    wait_until(lambda: metric(instance, count) == 1, SECONDS, "the duration of the job")
    assert metric(instance, "reporadar_workers") == 1
    wait_until(lambda: workers(admin)[0]["finished_jobs"] == 1, SECONDS, "the job to be counted")
    found = examine(fleet.environment)
    (line,) = [line for line in found.all_lines("ok") if "worker one" in line]
    assert re.fullmatch(r"fleet: worker one-worker is running, up for \d+ s, version \S+, runs 0 of at most \d jobs", line)
    assert "no worker" not in found.output


def test_stop_of_a_worker_is_in_its_log_and_in_the_history(admin: User, worker: Worker) -> None:
    assert worker.terminate() == 0
    (line,) = [line for line in worker.log().splitlines() if "stopped: " in line]
    stop = last_stop(admin)
    assert (stop["instance_id"], stop["kind"]) == ("one-worker", "clean")
    assert line.endswith(f"stopped: {stop['summary']}")
    phases = r"clean in [\d.]+ s: jobs in [\d.]+ s; close in [\d.]+ s"
    assert re.fullmatch(rf"{phases}; jobs since the start: \d finished, 0 released; received SIGTERM", stop["summary"])
    assert workers(admin) == []


def test_killed_worker_is_missing_and_then_listed_as_crashed(admin: User, worker: Worker) -> None:
    (about,) = workers(admin)
    seen = set()

    def is_removed() -> bool:
        found = states(admin)
        seen.update(found)
        return not found

    worker.kill()
    wait_until(is_removed, SECONDS, "the worker to be removed")
    assert seen <= {"running", "missing"}
    stop = last_stop(admin)
    assert (stop["nonce"], stop["instance_id"], stop["kind"]) == (about["nonce"], "one-worker", "crashed")
    assert [entry["kind"] for entry in admin.get("/api/fleet").json()["stops"] if entry["role"] == "instance"] == []
