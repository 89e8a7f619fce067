"""The job worker process: `python -m app.worker`. It runs several jobs at once; any number of workers can run side by side."""

import logging
import os
import secrets
import select
import signal
import sys
from pathlib import Path

from gunicorn.systemd import sd_notify

from app.analytics.event_stream import create_consumers
from app.analytics.store import EventStore
from app.core import config, instance, logs
from app.core.config import Config
from app.core.keyring import Keyring
from app.database.engine import Database
from app.job_wiring import create_worker_pool
from app.jobs.broker import JobQueues, redis_broker
from app.jobs.pool import WorkerPool
from app.jobs.task_record import SharedTaskRecord
from app.notifications.service import Notifications
from app.realtime.publisher import RedisPublisher
from app.redis.client import connect, sentinels_of
from app.server import open_files

log = logging.getLogger(__name__)

MAX_CONCURRENT_JOBS = 4  # each analysis also has a process of its own
HEARTBEAT_SECONDS = 5  # between signs of life for systemd and for liveness checks
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
        signal.signal(signal_number, lambda *_: os.write(stop_writer, b"."))

    database = Database(settings.database_url, settings.database_pool_size, me.instance_id, pooler=settings.database_pooler)
    traces = None
    if settings.otel_exporter_otlp_endpoint:
        from app.telemetry.setup import trace_worker  # only if traces are on: it costs memory

        traces = trace_worker(settings.otel_exporter_otlp_endpoint, database)
    pool = create_pool(settings, database, me.instance_id)
    pool.start()
    log.info("Worker waiting for jobs")
    sd_notify("READY=1", log)
    is_requested = wait_for_stop(pool, stop_reader, settings.worker_heartbeat_file)
    log.info("stopping: releasing running jobs")
    pool.stop(settings.shutdown_timeout - STOP_MARGIN_SECONDS)
    database.close()
    if traces:
        traces.stop()
    log.info("stopped")
    if not is_requested:
        sys.exit(1)


def wait_for_stop(pool: WorkerPool, stop_reader: int, heartbeat_file: Path | None) -> bool:
    """Send heartbeats until a stop is requested: then return True. Return False if a thread of the pool ended by itself."""
    while pool.is_running():
        sd_notify("WATCHDOG=1", log)
        if heartbeat_file:
            heartbeat_file.touch()
        if select.select([stop_reader], [], [], HEARTBEAT_SECONDS)[0]:
            return True
    log.error("a thread of this worker ended unexpectedly; stopping, so that the worker is restarted")
    return False


def create_pool(settings: Config, database: Database, instance_id: str) -> WorkerPool:
    sentinels = sentinels_of(settings)
    redis = connect(settings, instance_id, sentinels=sentinels)
    signing = Keyring("signing", tuple(secret.encode() for secret in settings.session_secret))
    publish = RedisPublisher(redis, signing).publish
    store = EventStore(database, publish, settings.analytics_retention_days)
    record = SharedTaskRecord(redis)
    consumers = create_consumers(store, redis, f"{instance_id}-{secrets.token_hex(4)}", record)
    queues, size = JobQueues(redis_broker(redis)), min(MAX_CONCURRENT_JOBS, os.cpu_count() or 1)
    return create_worker_pool(
        settings,
        database,
        Notifications(database, publish),
        queues,
        Keyring("encryption", settings.session_encryption_key),
        size,
        background_workers=[*consumers, sentinels] if sentinels else consumers,
        task_record=record,
    )


if __name__ == "__main__":
    main()
