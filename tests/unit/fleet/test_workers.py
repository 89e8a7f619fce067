"""Workers in the registry, and the health check that watches them."""

from __future__ import annotations

import logging
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core import instance, metrics
from app.core.warnings import OperatorWarning
from app.fleet import worker_monitor, worker_store
from app.fleet.store import Registry
from app.fleet.views import WorkerView
from app.fleet.worker_membership import WorkerMembership
from app.fleet.worker_monitor import NO_WORKER, WorkerMonitor
from app.fleet.worker_store import WorkerRegistry
from app.jobs import task_record
from app.jobs.statistics import FAILED, RELEASED, SUCCEEDED, JobStatistics
from app.jobs.task_record import SharedTaskRecord
from app.server.stop_report import StopReport
from harness.servers import wait_until
from tests.unit.conftest import count_of, set_clock
from tests.unit.fleet.test_store import entry

SLOTS = 2


@pytest.fixture(params=["redis_client", "cluster_client"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    found: redis.Redis = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def registry(client: redis.Redis) -> WorkerRegistry:
    return WorkerRegistry(client)


@pytest.fixture(autouse=True)
def no_durations() -> None:
    metrics.job_seconds.take()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time limit passes by itself while a test runs."""
    for limit in ("ENTRY_TTL_SECONDS", "SILENT_SECONDS", "OUTAGE_SECONDS"):
        monkeypatch.setattr(worker_store, limit, 3600)
    monkeypatch.setattr(worker_monitor, "SEEN_SECONDS", 3600)


def membership(registry: WorkerRegistry, name: str = "one", statistics: JobStatistics | None = None) -> WorkerMembership:
    return WorkerMembership(registry, instance.identify(name, role="worker"), statistics or JobStatistics(), SLOTS)


def expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let entries expire at once instead of after 10 s."""
    monkeypatch.setattr(worker_store, "ENTRY_TTL_SECONDS", 0)
    time.sleep(0.01)


def beat_as_instance(client: redis.Redis) -> None:
    """Without instances, Redis counts as having been down."""
    Registry(client).heartbeat(entry("instance", "key"))
    time.sleep(0.01)


def kinds(registry: WorkerRegistry) -> list[tuple[str, str]]:
    return [(stop["instance_id"], stop["kind"]) for stop in registry.stops()]


def test_worker_is_listed_after_its_first_heartbeat(registry: WorkerRegistry) -> None:
    assert (registry.workers(), registry.count()) == ([], 0)
    statistics = JobStatistics()
    with statistics.measure("export"):
        membership(registry, "two").beat()
        membership(registry, "one", statistics).beat()
    first, second = registry.workers()
    assert (first["instance_id"], second["instance_id"]) == ("one-worker", "two-worker")
    assert (first["status"], first["running_jobs"], first["max_jobs"]) == ("running", 1, SLOTS)
    assert abs(time.time() - first["last_heartbeat"]) < 60
    assert registry.count() == 2


def test_other_clock_of_another_master_makes_no_worker_missing(
    client: redis.Redis, registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TIME has no key, so any master of a cluster may answer it. The heartbeats are in the time of one."""
    monkeypatch.setattr(client, "time", lambda: (int(time.time()) + 86_400, 0))
    membership(registry).beat()
    assert [about["status"] for about in registry.workers()] == ["running"]


def test_silent_worker_is_missing_and_then_crashed(
    client: redis.Redis, registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_as_instance(client)
    killed = membership(registry)
    killed.beat()
    monkeypatch.setattr(worker_store, "SILENT_SECONDS", -10)
    assert [about["status"] for about in registry.workers()] == ["missing"]
    assert kinds(registry) == []
    expire(monkeypatch)
    for _ in range(2):
        assert registry.count() == 0
        assert kinds(registry) == [("one-worker", "crashed")]
    (stop,) = registry.stops()
    assert (stop["seconds"], stop["phases"]) == (None, [])
    assert abs(time.time() - stop["at"] / 1000) < 60


def test_worker_that_was_only_cut_off_did_not_crash(
    client: redis.Redis, registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_as_instance(client)
    one, two = membership(registry, "one"), membership(registry, "two")
    one.beat()
    two.beat()
    expire(monkeypatch)
    registry.count()
    assert len(kinds(registry)) == 2
    two.beat()
    assert kinds(registry) == [("one-worker", "crashed")]


def test_killed_while_stopping_is_a_forced_stop(
    client: redis.Redis, registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_as_instance(client)
    killed = membership(registry)
    killed.begin_stop()
    killed.beat()
    assert [about["status"] for about in registry.workers()] == ["stopping"]
    expire(monkeypatch)
    registry.count()
    assert kinds(registry) == [("one-worker", "forced")]


@pytest.mark.parametrize("fields", [{}, {"at": 1000, "outage": 0}, {"at": 9e12, "outage": 9e12}])
def test_nobody_crashes_during_an_outage_of_redis(
    client: redis.Redis, registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch, fields: dict[str, float]
) -> None:
    beat_as_instance(client)
    membership(registry).beat()
    expire(monkeypatch)
    (key,) = [key for key in client.scan_iter("*") if key.endswith(b":heartbeats")]
    client.delete(key)
    for field, value in fields.items():
        client.hset(key, field, value)
    assert registry.count() == 1
    assert kinds(registry) == []


def test_stop_has_a_summary_in_the_log_and_in_the_registry(registry: WorkerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    statistics = JobStatistics()
    for outcome in (SUCCEEDED, FAILED, RELEASED):
        with statistics.measure("export") as attempt:
            attempt.outcome = outcome
    worker = membership(registry, "one", statistics)
    worker.start()
    report = StopReport()
    with report.phase("jobs"):
        pass
    worker.leave(report, "received SIGTERM")
    (stop,) = registry.stops()
    assert (stop["instance_id"], stop["kind"], stop["phases"][0]["name"]) == ("one-worker", "clean", "jobs")
    assert stop["summary"].endswith("; jobs since the start: 2 finished, 1 released; received SIGTERM")
    assert f"stopped: {stop['summary']}" in caplog.messages
    assert registry.workers() == []


def test_stop_without_redis_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    worker = membership(WorkerRegistry(redis.Redis(port=1, retry=Retry(NoBackoff(), 0))))
    worker.start()
    worker.leave(StopReport(), "received SIGTERM")
    assert "stopped: clean" in caplog.text
    assert "stop not recorded, the fleet will list a crash" in caplog.text


def test_durations_of_all_workers_are_added_up(registry: WorkerRegistry) -> None:
    for seconds in (0.5, 1.0, 45):
        metrics.job_seconds.observe(seconds, "export", SUCCEEDED)
        membership(registry).beat()
    metrics.job_seconds.replace(registry.job_seconds())
    labels = {"kind": "export", "outcome": SUCCEEDED}
    counts = {bound: count_of("reporadar_job_seconds_bucket", le=bound, **labels) for bound in ("1.0", "30.0", "60.0", "+Inf")}
    assert counts == {"1.0": 2, "30.0": 2, "60.0": 3, "+Inf": 3}
    assert count_of("reporadar_job_seconds_count", **labels) == 3
    assert count_of("reporadar_job_seconds_sum", **labels) == 46.5


def test_durations_wait_for_a_heartbeat_that_arrives(registry: WorkerRegistry) -> None:
    metrics.job_seconds.observe(5, "export", SUCCEEDED)
    lost = membership(WorkerRegistry(redis.Redis(port=1, retry=Retry(NoBackoff(), 0))))
    with pytest.raises(Exception, match="Redis does not answer"):
        lost.beat()
    membership(registry).beat()
    assert registry.job_seconds() == {"export succeeded 5.0": 1, "export succeeded sum": 5}


def test_heartbeat_of_a_worker_changes_no_key_of_the_instances(client: redis.Redis, registry: WorkerRegistry) -> None:
    beat_as_instance(client)
    before = set(client.scan_iter("*"))
    totals = Registry(client).heartbeat(entry("instance", "key")).totals
    worker = membership(registry)
    worker.start()
    wait_until(registry.count)
    assert {key.rpartition(b":")[2] for key in set(client.scan_iter("*")) - before} == {b"workers", b"worker-heartbeats"}
    worker.leave(StopReport(), "received SIGTERM")
    assert Registry(client).heartbeat(entry("instance", "key")).totals == totals
    assert Registry(client).stops() == []


class Backlog:
    """Jobs and events that wait, without a database and a stream."""

    def __init__(self, queued: int = 0, waiting: int = 0) -> None:
        self.queued, self.waiting = queued, waiting
        self.warning: OperatorWarning | None = None

    def export(self) -> None: ...

    def find_warning(self) -> OperatorWarning | None:
        return self.warning


@pytest.mark.parametrize(
    ("queued", "waiting", "worker", "expected"),
    [(0, 0, None, None), (1, 0, None, NO_WORKER), (0, 1, None, NO_WORKER), (1, 1, "this", None), (1, 1, "previous", None)],
)
def test_missing_worker_is_a_warning_while_work_waits(
    redis_client: redis.Redis, queued: int, waiting: int, worker: str | None, expected: OperatorWarning | None
) -> None:
    backlog, registry = Backlog(queued, waiting), WorkerRegistry(redis_client)
    monitor = WorkerMonitor(registry, SharedTaskRecord(redis_client), backlog, backlog)
    if worker == "this":
        membership(registry).beat()
    elif worker == "previous":  # it sends no heartbeat
        SharedTaskRecord(redis_client).succeed("sweep", 5)
    monitor.check()
    assert monitor.warning == expected
    assert monitor.is_worker_needed is (expected is not None)
    assert count_of("reporadar_workers") == (worker == "this")


def test_other_warnings_follow(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = set_clock(monkeypatch, task_record)
    backlog, record, registry = Backlog(1, 1), SharedTaskRecord(redis_client), WorkerRegistry(redis_client)
    membership(registry).beat()
    monitor = WorkerMonitor(registry, record, backlog, backlog)
    backlog.warning = OperatorWarning("events_waiting", "events wait")
    monitor.check()
    assert monitor.warning == "events wait"
    record.start("sweep", 5)
    clock.now += 400
    monitor.check()
    assert monitor.warning
    assert monitor.warning.reason == "periodic_task_failing"


def test_entry_has_the_fields_of_the_api(registry: WorkerRegistry) -> None:
    membership(registry).beat()
    (about,) = registry.workers()
    assert set(about) == set(WorkerView.model_fields)
