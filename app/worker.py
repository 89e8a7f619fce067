"""The job worker process: `python -m app.worker`. It runs several jobs at once; any number of workers can run side by side."""

import logging
import os
import secrets
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import redis
from gunicorn.systemd import sd_notify

from app.analytics.event_stream import create_consumers
from app.analytics.store import EventStore
from app.core import config, instance, logs
from app.core.callbacks import do_nothing
from app.core.config import Config
from app.core.keyring import Keyring
from app.database.engine import Database
from app.fleet.worker_membership import WorkerMembership
from app.fleet.worker_store import WorkerRegistry
from app.job_wiring import create_worker_pool
from app.jobs.broker import JobQueues, redis_broker
from app.jobs.pool import WorkerPool
from app.jobs.statistics import JobStatistics
from app.jobs.task_record import SharedTaskRecord
from app.notifications.service import Notifications
from app.realtime.publisher import RedisPublisher
from app.redis.client import connect, sentinels_of
from app.redis.sentinel import Sentinels
from app.server import open_files
from app.server.stop_report import StopReport

log = logging.getLogger(__name__)

MAX_CONCURRENT_JOBS = 4  # each analysis also has a process of its own
WATCHDOG_SECONDS = 5  # between heartbeats for systemd and for WORKER_HEARTBEAT_FILE
STOP_MARGIN_SECONDS = 2  # between the timeout of the pool and SHUTDOWN_TIMEOUT


def main() -> None:
    settings = config.from_environment_or_exit()
    me = instance.identify(settings.instance_id, role="worker")
    logs.configure(settings.log_format, settings.log_level)
    if not settings.use_redis_sessions:
        config.exit_with_faults(["USE_REDIS_SESSIONS: is not true; an embedded instance runs its jobs itself, without workers"])
    open_files.ensure_limit_or_exit("a worker", open_files.needed_by_worker(settings))
    stop_reader, stop_writer = os.pipe()  # writing to a pipe is safe in a signal handler, taking a lock is not
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda number, _: os.write(stop_writer, bytes([number])))

    database = Database(settings.database_url, settings.database_pool_size, me.instance_id, pooler=settings.database_pooler)
    closers: list[Callable[[], None]] = [database.close]
    after_report: Callable[[], None] = do_nothing
    if settings.otel_exporter_otlp_endpoint:
        from app.telemetry.setup import trace_worker  # only if traces are on: it costs memory

        traces = trace_worker(settings.otel_exporter_otlp_endpoint, database)
        closers.append(traces.flush)
        after_report = traces.stop  # a collector that hangs must not use up the time for the report
    sentinels = sentinels_of(settings)
    client = connect(settings, me.instance_id, sentinels=sentinels)
    statistics, size = JobStatistics(), min(MAX_CONCURRENT_JOBS, os.cpu_count() or 1)
    pool = create_pool(settings, database, client, sentinels, me.instance_id, statistics, size)
    membership = WorkerMembership(WorkerRegistry(client), me, statistics, size)
    pool.start()
    membership.start()
    log.info("Worker waiting for jobs")
    sd_notify("READY=1", log)
    signal_name = wait_for_stop([pool, membership], stop_reader, settings.worker_heartbeat_file)
    reason = f"received {signal_name}" if signal_name else "a thread ended unexpectedly"
    log.info("stop requested: %s; releasing running jobs", reason)
    membership.begin_stop()
    report = stop(pool, closers, settings.shutdown_timeout, is_requested=bool(signal_name))
    membership.leave(report, reason)
    after_report()
    if not signal_name:
        sys.exit(1)


class Part(Protocol):
    def is_running(self) -> bool:
        """Return whether all its threads run."""


def wait_for_stop(parts: Sequence[Part], stop_reader: int, heartbeat_file: Path | None) -> str | None:
    """Send heartbeats to systemd and touch the file until a signal arrives: then return its name.

    Return None if a thread of a part ended by itself.
    """
    while all(part.is_running() for part in parts):
        sd_notify("WATCHDOG=1", log)
        if heartbeat_file:
            heartbeat_file.touch()
        if select.select([stop_reader], [], [], WATCHDOG_SECONDS)[0]:
            return signal.Signals(os.read(stop_reader, 1)[0]).name
    log.error("a thread of this worker ended unexpectedly; stopping, so that the worker is restarted")
    return None


def stop(pool: WorkerPool, closers: Sequence[Callable[[], None]], timeout_seconds: float, *, is_requested: bool) -> StopReport:
    report = StopReport()
    with report.phase("jobs") as phase:
        pool.stop(timeout_seconds - STOP_MARGIN_SECONDS)
        if count := pool.count_threads():
            phase.cut_off = f"threads that did not end in time: {count}"
        elif not is_requested:
            phase.cut_off = "a thread ended unexpectedly"
    with report.phase("close"):
        for close in closers:
            close()
    return report


def create_pool(
    settings: Config,
    database: Database,
    client: redis.Redis,
    sentinels: Sentinels | None,
    instance_id: str,
    statistics: JobStatistics,
    size: int,
) -> WorkerPool:
    """Create the pool of this process, which runs `size` jobs at once."""
    signing = Keyring("signing", tuple(secret.encode() for secret in settings.session_secret))
    publish = RedisPublisher(client, signing).publish
    store = EventStore(database, publish, settings.analytics_retention_days)
    record = SharedTaskRecord(client)
    consumers = create_consumers(store, client, f"{instance_id}-{secrets.token_hex(4)}", record)
    return create_worker_pool(
        settings,
        database,
        Notifications(database, publish),
        JobQueues(redis_broker(client)),
        Keyring("encryption", settings.session_encryption_key),
        size,
        background_workers=[*consumers, sentinels] if sentinels else consumers,
        task_record=record,
        statistics=statistics,
    )


if __name__ == "__main__":
    main()
