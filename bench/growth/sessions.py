"""The cost of reading a session, its memory, and the census of encryption keys, with many sessions in Redis."""

import hashlib
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

import redis

from app.redis.multiplexed import MultiplexedRedis
from app.sessions.redis_store import RedisSessionStore
from bench.growth.fleet import MeasuredFleet, fleet, load, spent
from bench.growth.series import Line, Panel, Series
from harness.servers import Instance
from harness.users import User

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 3
SECONDS = 1.5
LOOKED_UP = 5_000
BATCH = 1_000
MAX_REPEATED_CENSUS = 100_000  # larger sizes are counted in one round only
DAY_MS, MONTH_SECONDS = 86_400_000, 2_592_000


def measure() -> Series:
    read = Line("instance"), Line("Redis")
    any_read, memory = Line("Redis, any session"), Line("Redis")
    census = Line("instance"), Line("Redis")
    with ExitStack() as stack:
        filled = {size: stack.enter_context(FleetWithSessions.started(size)) for size in SIZES}
        for number in range(ROUNDS):  # all sizes in each round, because the machine's speed varies over time
            for size, one in filled.items():
                memory.add(size, one.bytes_per_session)
                any_read.add(size, one.look_up())
                for line, cost in zip(read, one.read(), strict=True):
                    line.add(size, cost)
                if number == 0 or size <= MAX_REPEATED_CENSUS:
                    for line, cost in zip(census, one.count_keys(), strict=True):
                        line.add(size, cost)
    return Series(
        "sessions in Redis",
        [
            Panel("authenticated read", "us of CPU", [*read, any_read]),
            Panel("memory of one", "bytes", [memory]),
            Panel("census, for each", "us of CPU", [*census]),
        ],
    )


@dataclass(frozen=True)
class FleetWithSessions:
    """A fleet with `size` sessions. Costs are microseconds of CPU time per session, of the instance and of Redis."""

    size: int
    servers: MeasuredFleet
    instance: Instance
    user: User
    client: redis.Redis
    bytes_per_session: float

    @classmethod
    @contextmanager
    def started(cls, size: int) -> Iterator[Self]:
        with fleet() as servers, redis.Redis.from_url(servers.redis.url, protocol=2) as client:
            instance = servers.start()
            user, empty = User(instance).register(), client.info("memory")["used_memory"]
            fill(servers, client, size)
            bytes_per_session = (client.info("memory")["used_memory"] - empty) / size
            yield cls(size, servers, instance, user, client, bytes_per_session)

    def read(self) -> list[float]:
        with spent(self.instance.pid, self.servers.redis.pid) as cpu:
            count = load(self.instance, "/bench/read", self.user.cookie_header, SECONDS)
        return [seconds * 1e6 / count for seconds in cpu]

    def look_up(self) -> float:
        """Measure reads of random sessions in Redis: a single session would stay in the CPU's caches."""
        with spent(self.servers.redis.pid) as cpu:
            for _ in range(LOOKED_UP):
                self.client.hgetall(key_of(secrets.randbelow(self.size)))
        return cpu[0] * 1e6 / LOOKED_UP

    def count_keys(self) -> list[float]:
        started = time.process_time()
        with spent(self.servers.redis.pid) as cpu:
            for _ in RedisSessionStore(self.client, MultiplexedRedis(self.client), MONTH_SECONDS).key_ids_in_use():
                pass
        return [seconds * 1e6 / self.size for seconds in (time.process_time() - started, cpu[0])]


def fill(servers: MeasuredFleet, client: redis.Redis, count: int) -> None:
    """Copy the one real record to many keys. They cannot be decrypted, but Redis does not do that."""
    record = next(key for key in client.scan_iter("session:*") if client.ttl(key) > 0)
    dumped = client.dump(record)
    assert isinstance(dumped, bytes)
    with socket.create_connection(("127.0.0.1", servers.redis.port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(_command(b"CLIENT", b"REPLY", b"OFF"))
        for first in range(0, count, BATCH):
            connection.sendall(b"".join(_session(number, dumped) for number in range(first, min(first + BATCH, count))))
        connection.sendall(_command(b"CLIENT", b"REPLY", b"ON"))
        if answers.readline() != b"+OK\r\n":
            raise RuntimeError("Redis did not accept the sessions")


def key_of(number: int) -> bytes:
    return b"session:" + hashlib.sha256(b"%d" % number).hexdigest().encode()


def _session(number: int, dumped: bytes) -> bytes:
    """Return the commands for a record and the list of its user, as the store's script writes them."""
    key, user_list = key_of(number), b"user:%d:sessions" % (number + 1_000_000)
    return (
        _command(b"RESTORE", key, b"%d" % DAY_MS, dumped, b"REPLACE")
        + _command(b"ZADD", user_list, b"%d" % (time.time() * 1e6), key)
        + _command(b"EXPIRE", user_list, b"%d" % MONTH_SECONDS)
    )


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
