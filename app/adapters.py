"""Embedded mode or fleet mode: the few parts in which they differ are chosen here and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass

import dramatiq
import redis

from app.analytics.event_stream import StreamMonitor
from app.analytics.intake import DirectIntake, Intake, RedisIntake
from app.analytics.store import EventStore
from app.auth.limits import MemoryRateLimiter, RateLimiter, RedisRateLimiter
from app.core.callbacks import do_nothing
from app.core.config import Config
from app.core.instance import Instance
from app.core.keyring import Keyring
from app.core.messages import Publish
from app.core.warnings import OperatorWarning
from app.database.engine import Database
from app.fleet.consistency import ConsistencyCheck
from app.fleet.service import Fleet, FleetMembership, FleetOfOne, SharedFleet
from app.fleet.store import FleetTotals, Registry
from app.fleet.vitals import Vitals
from app.fleet.worker_monitor import WorkerMonitor
from app.fleet.worker_store import WorkerRegistry
from app.health.redis_cluster import ClusterHealth
from app.health.redis_server import RedisServerCheck
from app.health.service import PROBE_TIMEOUT_SECONDS, Probe
from app.jobs.broker import local_broker, redis_broker
from app.jobs.monitor import JobMonitor
from app.jobs.task_record import SharedTaskRecord
from app.realtime.message_queue import LocalMessageQueue, MessageQueue, RedisMessageQueue
from app.realtime.publisher import RedisPublisher
from app.redis.client import PooledRedis, RedisCommands, connect, is_cluster, sentinels_of
from app.redis.multiplexed import share_connection
from app.redis.sentinel import Sentinels
from app.server.lifecycle import Lifecycle
from app.sessions.redis_store import RedisSessionStore
from app.sessions.sql_store import SqlSessionStore
from app.sessions.store import SessionStore


@dataclass(frozen=True)
class RedisClients:
    """The clients of a fleet instance, all of the same server or cluster."""

    client: redis.Redis
    with_long_timeout: redis.Redis  # for background work: a slow Redis has not failed
    shared: RedisCommands  # one connection for the commands of all requests
    sentinels: Sentinels | None = None  # where REDIS_URL names some

    @property
    def is_cluster(self) -> bool:
        return is_cluster(self.client)


@dataclass(frozen=True)
class Adapters:
    sessions: SessionStore
    limiter: RateLimiter
    refresh_keys: Callable[[], None]
    message_queue: MessageQueue
    publish_from_command: Publish  # for a process that is not an instance: the command line
    broker: dramatiq.Broker
    runs_jobs: bool  # False where worker processes run them
    fleet: Fleet
    fleet_totals: Callable[[], FleetTotals | None]  # of the last heartbeat; None if they are unknown
    intake: Intake


def connect_redis(config: Config, instance_id: str, lifecycle: Lifecycle) -> RedisClients | None:
    """Return the clients of fleet mode, or None in embedded mode. Connections are opened with the first command."""
    if not config.use_redis_sessions:
        return None
    sentinels = sentinels_of(config)
    client = connect(config, instance_id, sentinels=sentinels)
    shared = share_connection(client) if config.shared_redis_connection else PooledRedis(client)
    with_long_timeout = connect(config, instance_id, timeout=PROBE_TIMEOUT_SECONDS, sentinels=sentinels)
    clients = RedisClients(client, with_long_timeout, shared, sentinels)
    if sentinels:
        lifecycle.add("sentinels", background=sentinels.run, after_report=sentinels.close)
    lifecycle.add("redis", close=client.close)
    lifecycle.add("redis with long timeout", after_report=clients.with_long_timeout.close)
    lifecycle.add("shared redis connection", close=clients.shared.close)
    return clients


def redis_probes(clients: RedisClients | None) -> list[Probe]:
    if clients is None:
        return []
    client, sentinels = clients.with_long_timeout, clients.sentinels
    server = RedisServerCheck(client)
    cluster = ClusterHealth(clients.client, client) if is_cluster(clients.client) else None

    def check() -> str | None:
        if cluster:
            cluster.check()
            return None
        return None if client.ping() else "no answer"

    def find_warning() -> OperatorWarning | None:
        if cluster:
            return cluster.find_warning()
        return (sentinels.find_warning() if sentinels else None) or server.find_warning()

    def find_cause() -> str | None:
        return sentinels.find_cause() if sentinels else None

    return [Probe("redis", check, find_warning=find_warning, find_cause=find_cause)]


def create_worker_monitor(clients: RedisClients | None, jobs: JobMonitor) -> WorkerMonitor | None:
    if clients is None:
        return None
    client = clients.with_long_timeout
    return WorkerMonitor(WorkerRegistry(client), SharedTaskRecord(client), jobs, StreamMonitor(client))


def choose(
    config: Config,
    me: Instance,
    database: Database,
    clients: RedisClients | None,
    keyrings: list[Keyring],
    lifecycle: Lifecycle,
    vitals: Vitals,
) -> Adapters:
    if clients is None:
        return _embedded(config, me, database, lifecycle, vitals)
    return _fleet(config, me, database, clients, keyrings, lifecycle, vitals)


def _embedded(config: Config, me: Instance, database: Database, lifecycle: Lifecycle, vitals: Vitals) -> Adapters:
    queue = LocalMessageQueue()
    return Adapters(
        sessions=SqlSessionStore(database),
        limiter=MemoryRateLimiter(),
        refresh_keys=do_nothing,
        message_queue=queue,
        publish_from_command=do_nothing,
        broker=local_broker(),
        runs_jobs=True,
        fleet=FleetOfOne(me, lifecycle, vitals),
        fleet_totals=do_nothing,
        intake=DirectIntake(EventStore(database, queue.publish, config.analytics_retention_days)),
    )


def _fleet(
    config: Config,
    me: Instance,
    database: Database,
    clients: RedisClients,
    keyrings: list[Keyring],
    lifecycle: Lifecycle,
    vitals: Vitals,
) -> Adapters:
    signing = next(keyring for keyring in keyrings if keyring.name == "signing")
    registry = Registry(clients.with_long_timeout)
    consistency = ConsistencyCheck(
        me, lifecycle, database, config.database_pool_size, registry.peers, config.database_connection_limit
    )
    membership = FleetMembership(registry, me, keyrings, lifecycle, consistency, vitals)
    queue = RedisMessageQueue(clients.with_long_timeout, signing)
    broker = redis_broker(clients.client)
    lifecycle.add("message queue", background=queue.run, check=queue.not_ready_reason)
    lifecycle.add(
        "registry",
        background=membership.run,
        check=membership.not_ready_reason,
        on_drain=membership.beat,
        after_report=membership.leave,
    )
    lifecycle.add("sql heartbeat", background=consistency.run, close=consistency.sign_off)
    lifecycle.add("job broker", close=broker.close)
    return Adapters(
        sessions=RedisSessionStore(clients.client, clients.shared, config.session_max_age),
        limiter=RedisRateLimiter(clients.client, signing),
        refresh_keys=lambda: membership.refresh(Registry(clients.client)),
        message_queue=queue,
        publish_from_command=RedisPublisher(clients.client, signing).publish,
        broker=broker,
        runs_jobs=False,
        fleet=SharedFleet(Registry(clients.client), WorkerRegistry(clients.client), consistency),
        fleet_totals=membership.totals,
        intake=RedisIntake(clients.client, clients.shared),
    )
