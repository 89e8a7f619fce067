"""The job worker: `python -m app.jobs.worker`. One process, several threads; run as many as there is work for."""

from __future__ import annotations

import logging
import signal
import threading

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from app import config, instance, logs
from app.config import Config
from app.redis_client import connect

log = logging.getLogger(__name__)

THREADS = 4
# A worker that was killed is noticed after this time, and its messages are given to the next one; the defaults take minutes.
HEARTBEAT_TIMEOUT_MS = 15_000
MAINTENANCE_CHANCE = 1_000_000  # in a million: with every look for messages


def create_broker(settings: Config, instance_id: str) -> RedisBroker:
    return RedisBroker(  # type: ignore[no-untyped-call]
        client=connect(settings, instance_id),
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        maintenance_chance=MAINTENANCE_CHANCE,
    )


def main() -> None:
    settings = config.from_environment_or_exit()
    me = instance.identify(settings.instance_id, role="worker")
    logs.configure(settings.log_format, settings.log_level)
    if not settings.use_redis_sessions:
        config.exit_with_faults(["USE_REDIS_SESSIONS: is not true; an embedded instance does its jobs by itself"])
    stop = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: stop.set())

    broker = create_broker(settings, me.instance_id)
    dramatiq.set_broker(broker)
    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    log.info("Worker waiting for jobs")
    stop.wait()
    log.info("stopping: finishing the jobs at hand")
    worker.stop(timeout=settings.shutdown_timeout * 1000)
    broker.close()
    log.info("stopped")


if __name__ == "__main__":
    main()
