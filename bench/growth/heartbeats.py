"""A simulated fleet of up to a thousand instances: what their heartbeats cost Redis and PostgreSQL, and how fast they meet.

Each simulated instance has its own connection to Redis and sends its heartbeats at the pace of a real one. In the middle all of
them are restarted, one after the other, with a new key.
"""

import math
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from typing import Any, Self

import redis

from app.database.engine import Database
from app.fleet import service, sql_heartbeat
from app.fleet.sql_heartbeat import SqlHeartbeat
from app.fleet.store import HeartbeatReply, Registry
from bench.growth.fleet import spent
from bench.growth.series import PROPORTIONAL, Line, Panel, Series
from harness.servers import PostgresServer, RedisServer

SIZES = (10, 30, 100, 300, 1000)
MAX_TIMED = 300  # this process may be too slow to keep more instances alive; costs for each are measured nevertheless
ROUNDS = 3
IDLE_SECONDS = 2.0
RESTARTED_PER_BATCH = 2
SETTLE_SECONDS = 1.0  # of a new key
SEEN_WITHIN_SECONDS = 5.0
STATUS_BYTES = 1200  # of what an instance says about itself
SQL_HEARTBEATS = 500
THREADS, BATCHES = 20, 10  # the heartbeats of a second are sent in so many batches, by so many threads
OLD_KEYS = {"encryption": ["a" * 16], "signing": ["b" * 16]}
NEW_KEYS = {"encryption": ["c" * 16, "a" * 16], "signing": ["b" * 16]}


def measure() -> Series:
    heartbeat, all_heartbeats = Line("Redis"), Line("Redis", PROPORTIONAL)
    sql, all_sql = Line("PostgreSQL"), Line("PostgreSQL", PROPORTIONAL)
    seen, restart = Line("by the last one"), Line("Redis", PROPORTIONAL)
    percent = 100 / service.HEARTBEAT_SECONDS
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        fleets = [stack.enter_context(SimulatedFleet.started(size)) for size in SIZES]
        for _ in range(ROUNDS):  # all sizes in each round, because the machine's speed varies over time
            for simulated in fleets:
                size, cost, sql_cost = simulated.size, simulated.measure_idle(), measure_sql(postgres, simulated.size)
                heartbeat.add(size, cost * 1e6)
                all_heartbeats.add(size, cost * size * percent)
                sql.add(size, sql_cost * 1e6)
                all_sql.add(size, sql_cost * size * percent)
                if size <= MAX_TIMED:
                    seen.add(size, simulated.measure_newcomer())
        for simulated in fleets:
            if simulated.size <= MAX_TIMED:
                restart.add(simulated.size, simulated.restart_all() * 1e6)
    return Series(
        "instances",
        [
            Panel("heartbeat of one", "us of CPU", [heartbeat, sql]),
            Panel("heartbeats of all", "% of a core", [all_heartbeats, all_sql]),
            Panel("new instance is seen", "seconds", [seen]),
            Panel("restart of one", "us of CPU", [restart]),
        ],
    )


def measure_sql(postgres: PostgresServer, size: int) -> float:
    """Return the CPU time of PostgreSQL for a heartbeat among `size`, in seconds."""
    with closing(Database(postgres.create_database().replace("postgresql:", "postgresql+psycopg2:"), 1, "bench")) as database:
        heartbeats = [SqlHeartbeat(f"nonce-{number}", f"instance-{number}", True) for number in range(size)]
        for heartbeat in heartbeats:
            database.run(sql_heartbeat.record, heartbeat)
        with spent(postgres.pid) as cpu:
            for number in range(SQL_HEARTBEATS):
                database.run(sql_heartbeat.record, heartbeats[number % size])
    return cpu[0] / SQL_HEARTBEATS


class SimulatedInstance:
    def __init__(self, url: str, instance_id: str, keys: dict[str, list[str]]) -> None:
        self._client = redis.Redis.from_url(url, protocol=2, single_connection_client=True)
        self._registry = Registry(self._client, SETTLE_SECONDS)
        self._nonce = secrets.token_hex(8)
        self._instance_id, self._keys = instance_id, keys
        self._status = "starting"

    def beat(self) -> HeartbeatReply:
        entry = {
            "instance_id": self._instance_id,
            "nonce": self._nonce,
            "hostname": "bench",
            "pid": 1,
            "status": self._status,
            "is_stopping": self._status == "draining",
            "pool": 5,
            "sockets": secrets.randbelow(2000),
            "keys": self._keys,
            "writes_with": {},
        }
        return self._registry.heartbeat(entry, {"status": "x" * STATUS_BYTES})

    def start(self) -> None:
        """Send the heartbeats of a start, and read the registry, which only a starting instance does."""
        self.beat()
        self._registry.peers()
        self._status = "ready"
        self.beat()

    def stop(self) -> None:
        self._status = "draining"
        self.beat()
        stop: dict[str, Any] = {"instance_id": self._instance_id, "nonce": self._nonce, "kind": "clean", "at": 0, "seconds": 1.0}
        self._registry.leave(self._nonce, {**stop, "summary": "clean in 1.00 s", "phases": []})
        self._client.close()


class SimulatedFleet:
    def __init__(self, server: RedisServer, executor: ThreadPoolExecutor, size: int) -> None:
        self.size = size
        self._server = server
        self._executor = executor
        self._instances = list(executor.map(lambda number: self._started(number, OLD_KEYS), range(size)))

    @classmethod
    @contextmanager
    def started(cls, size: int) -> Iterator[Self]:
        with RedisServer() as server, ThreadPoolExecutor(THREADS) as executor:
            yield cls(server, executor, size)

    def _started(self, number: int, keys: dict[str, list[str]]) -> SimulatedInstance:
        instance = SimulatedInstance(self._server.url, f"instance-{number}", keys)
        instance.start()
        return instance

    def _paced(self, seconds: float) -> Iterator[list[HeartbeatReply]]:
        """Yield the replies to the heartbeats of all instances in batches, whose times spread evenly over a second."""
        started = due = time.monotonic()
        while due < started + seconds:
            for first in range(0, len(self._instances), self._batch_size):
                time.sleep(max(0.0, due - time.monotonic()))
                yield self._beat_all(self._instances[first : first + self._batch_size])
                due += service.HEARTBEAT_SECONDS / BATCHES

    @property
    def _batch_size(self) -> int:
        return math.ceil(len(self._instances) / BATCHES)

    def _beat_all(self, instances: list[SimulatedInstance]) -> list[HeartbeatReply]:
        return list(self._executor.map(SimulatedInstance.beat, instances))

    def measure_idle(self) -> float:
        """Return the CPU time of Redis for a heartbeat, in seconds."""
        self._beat_all(self._instances)  # they were silent while something else was measured
        with spent(self._server.pid) as cpu:
            count = sum(map(len, self._paced(IDLE_SECONDS)))
        return cpu[0] / count

    def measure_newcomer(self) -> float:
        """Return after how many seconds the last instance saw a new one. Raises RuntimeError if that takes too long."""
        self._beat_all(self._instances)  # they were silent while something else was measured
        started = time.monotonic()
        newcomer = self._started(self.size, OLD_KEYS)
        aware = 0
        for reply in chain.from_iterable(self._paced(SEEN_WITHIN_SECONDS)):
            aware = aware + 1 if reply.totals.instances == self.size + 1 else 0
            if aware == self.size:
                newcomer.stop()
                return time.monotonic() - started
        raise RuntimeError(f"{self.size - aware} of {self.size} instances did not see a new one in {SEEN_WITHIN_SECONDS} s")

    def restart_all(self) -> float:
        """Restart one instance after the other, with a new key. Return the CPU time of Redis for each, in seconds.

        Raises RuntimeError if one counts as crashed, or if not all use the new key afterwards.
        """
        heartbeat, stops = self.measure_idle(), self._instances[0].beat().stops
        waiting, count = list(range(self.size)), 0
        with spent(self._server.pid) as cpu:
            for replies in self._paced(math.inf):
                count += len(replies)
                for number in waiting[:RESTARTED_PER_BATCH]:
                    self._instances[number].stop()
                    self._instances[number] = self._started(number, NEW_KEYS)
                del waiting[:RESTARTED_PER_BATCH]
                if not waiting:
                    break
        replies = [*chain.from_iterable(self._paced(2 * SETTLE_SECONDS + service.HEARTBEAT_SECONDS))][-self.size :]
        expected = NEW_KEYS["encryption"][0], {**stops, "clean": stops["clean"] + self.size}
        wrong = [reply for reply in replies if (reply.rings["encryption"].active, reply.stops) != expected]
        if wrong:
            raise RuntimeError(f"after the restart of {self.size} instances, {len(wrong)} received {wrong[0]}")
        return (cpu[0] - count * heartbeat) / self.size
