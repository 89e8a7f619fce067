"""The job worker: `python -m app.worker`. One process, several threads; run as many as there is work for."""

from __future__ import annotations

import logging
import os
import secrets
import signal

from app.analytics.jobs import Storer
from app.analytics.storage import Storage
from app.analytics.stream import EventStream
from app.core import config, instance, logs
from app.core.config import Config
from app.core.keyring import Keyring
from app.database.engine import Database
from app.job_wiring import Crew, assemble
from app.jobs.broker import Queues, redis_broker
from app.notifications.service import Notifications
from app.realtime.publisher import RedisPublisher
from app.redis.client import connect

log = logging.getLogger(__name__)

MAX_AT_ONCE = 4  # jobs; an analysis is a process of its own
GIVE_UP_SECONDS = 2  # before SHUTDOWN_TIMEOUT is over


def main() -> None:
    settings = config.from_environment_or_exit()
    me = instance.identify(settings.instance_id, role="worker")
    logs.configure(settings.log_format, settings.log_level)
    if not settings.use_redis_sessions:
        config.exit_with_faults(["USE_REDIS_SESSIONS: is not true; an embedded instance does its jobs by itself"])
    stop, wish = os.pipe()  # what a signal handler may touch without being in the way of itself
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: os.write(wish, b"."))

    database = Database(settings.database_url, settings.database_pool_size, me.instance_id)
    crew = create_crew(settings, database, me.instance_id)
    crew.start()
    log.info("Worker waiting for jobs")
    os.read(stop, 1)
    log.info("stopping: handing over the jobs at hand")
    crew.stop(settings.shutdown_timeout - GIVE_UP_SECONDS)
    database.close()
    log.info("stopped")


def create_crew(settings: Config, database: Database, instance_id: str) -> Crew:
    redis = connect(settings, instance_id)
    signing = Keyring("signing", tuple(secret.encode() for secret in settings.session_secret))
    publish = RedisPublisher(redis, signing).publish
    storer = Storer(Storage(settings, database, publish), EventStream(redis, f"{instance_id}-{secrets.token_hex(4)}"))
    size = min(MAX_AT_ONCE, os.cpu_count() or 1)
    return assemble(settings, database, Notifications(database, publish), Queues(redis_broker(redis)), size, others=[storer])


if __name__ == "__main__":
    main()
