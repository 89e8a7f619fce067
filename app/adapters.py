"""The handful of parts in which a fleet and an embedded instance differ, chosen here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import dramatiq

from app.analytics.intake import DirectIntake, Intake, RedisIntake
from app.analytics.storage import Storage
from app.analytics.stream import Overseer
from app.auth.limits import MemoryRateLimiter, RateLimiter, RedisRateLimiter
from app.core.config import Config
from app.core.instance import Instance
from app.core.keyring import Keyring
from app.core.messages import Publish
from app.database.engine import Database
from app.fleet.agreement import Agreement
from app.fleet.service import Fleet, FleetOfOne, Membership, SharedFleet
from app.fleet.store import Registry
from app.fleet.vitals import Vitals
from app.health.service import PROBE_TIMEOUT_SECONDS, Probe
from app.jobs.broker import local_broker, redis_broker
from app.realtime.publisher import RedisPublisher
from app.realtime.queue import LocalQueue, RedisQueue, SocketQueue
from app.redis.client import connect
from app.redis.multiplexed import MultiplexedRedis
from app.server.lifecycle import Lifecycle
from app.sessions.redis_store import RedisSessionStore
from app.sessions.sql_store import SqlSessionStore
from app.sessions.store import SessionStore


@dataclass(frozen=True)
class Adapters:
    sessions: SessionStore
    limiter: RateLimiter
    refresh_keys: Callable[[], None]
    probes: list[Probe]
    queue: SocketQueue
    publish_from_outside: Publish  # for a process that is no instance: the command line
    broker: dramatiq.Broker
    does_jobs: bool  # itself; otherwise worker processes do
    fleet: Fleet
    intake: Intake


def choose(
    config: Config, me: Instance, database: Database, rings: list[Keyring], lifecycle: Lifecycle, vitals: Vitals
) -> Adapters:
    if config.use_redis_sessions:
        return _of_a_fleet(config, me, database, rings, lifecycle, vitals)
    queue = LocalQueue()
    return Adapters(
        sessions=SqlSessionStore(database),
        limiter=MemoryRateLimiter(),
        refresh_keys=_nothing,
        probes=[],
        queue=queue,
        publish_from_outside=_nothing,
        broker=local_broker(),
        does_jobs=True,
        fleet=FleetOfOne(me, lifecycle, vitals),
        intake=DirectIntake(Storage(config, database, queue.publish)),
    )


def _of_a_fleet(
    config: Config, me: Instance, database: Database, rings: list[Keyring], lifecycle: Lifecycle, vitals: Vitals
) -> Adapters:
    redis = connect(config, me.instance_id)
    multiplexed = MultiplexedRedis(redis)
    patient = connect(config, me.instance_id, timeout=PROBE_TIMEOUT_SECONDS)  # a slow Redis is not a failed one
    signing = next(ring for ring in rings if ring.name == "signing")
    agreement = Agreement(me, lifecycle, database, config.database_pool_size)
    membership = Membership(Registry(patient), me, rings, lifecycle, agreement, vitals)
    queue = RedisQueue(patient, signing)
    broker = redis_broker(redis)
    lifecycle.add("redis", close=redis.close)
    lifecycle.add("redis", close=patient.close)
    lifecycle.add("redis", close=multiplexed.close)
    lifecycle.add("message queue", background=queue.run, check=queue.obstacle)
    lifecycle.add(
        "registry",
        background=membership.run,
        check=membership.obstacle,
        close=membership.leave,
        announce=membership.beat,
    )
    lifecycle.add("pulse", background=agreement.run, close=agreement.forget)
    lifecycle.add("job broker", close=broker.close)
    return Adapters(
        sessions=RedisSessionStore(redis, multiplexed, config.session_max_age),
        limiter=RedisRateLimiter(redis, signing),
        refresh_keys=lambda: membership.refresh(Registry(redis)),
        probes=[Probe("redis", lambda: None if patient.ping() else "no answer", look=Overseer(patient).look)],
        queue=queue,
        publish_from_outside=RedisPublisher(redis, signing).publish,
        broker=broker,
        does_jobs=False,
        fleet=SharedFleet(Registry(redis), agreement),
        intake=RedisIntake(redis, multiplexed),
    )


def _nothing(*_: object) -> None:
    """An embedded instance is alone: what it knows is all there is. What others store beside it, it finds by itself."""
