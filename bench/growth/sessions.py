"""Very many sessions in Redis: a read of one, the room that they take, and the census of the keys that they need."""

from __future__ import annotations

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
FULL_CENSUS = 100_000  # of more, one round
DAY_MS, MONTH_SECONDS = 86_400_000, 2_592_000


def measure() -> Series:
    read = Line("instance"), Line("Redis")
    any_read, room = Line("Redis, any session"), Line("Redis")
    census = Line("instance"), Line("Redis")
    with ExitStack() as stack:
        filled = {size: stack.enter_context(Filled.started(size)) for size in SIZES}
        for number in range(ROUNDS):  # in which the sizes take turns: the machine is not as quick in each minute
            for size, one in filled.items():
                room.add(size, one.room)
                any_read.add(size, one.look_up())
                for line, cost in zip(read, one.read(), strict=True):
                    line.add(size, cost)
                if number == 0 or size <= FULL_CENSUS:
                    for line, cost in zip(census, one.count_keys(), strict=True):
                        line.add(size, cost)
    return Series(
        "sessions in Redis",
        [
            Panel("authenticated read", "us of CPU", [*read, any_read]),
            Panel("memory of one", "bytes", [room]),
            Panel("census, for each", "us of CPU", [*census]),
        ],
    )


@dataclass(frozen=True)
class Filled:
    """A fleet with so many sessions. All costs are microseconds of CPU for one, of the instance and of Redis."""

    size: int
    servers: MeasuredFleet
    instance: Instance
    user: User
    client: redis.Redis
    room: float  # bytes of one

    @classmethod
    @contextmanager
    def started(cls, size: int) -> Iterator[Self]:
        with fleet() as servers, redis.Redis.from_url(servers.redis.url, protocol=2) as client:
            instance = servers.start()
            user, empty = User(instance).register(), client.info("memory")["used_memory"]
            fill(servers, client, size)
            room = (client.info("memory")["used_memory"] - empty) / size
            yield cls(size, servers, instance, user, client, room)

    def read(self) -> list[float]:
        with spent(self.instance.pid, self.servers.redis.pid) as cpu:
            count = load(self.instance, "/bench/read", f"session={self.user.cookie}", SECONDS)
        return [seconds * 1e6 / count for seconds in cpu]

    def look_up(self) -> float:
        """By Redis, of any session: the same one again and again stays in the processor's caches."""
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
    """The one real record, under other keys; none could be opened there, but Redis does not know. Each has a user of its own."""
    record = next(key for key in client.scan_iter("session:*") if client.ttl(key) > 0)
    dumped = client.dump(record)
    assert isinstance(dumped, bytes)
    with socket.create_connection(("127.0.0.1", servers.redis.port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(_command(b"CLIENT", b"REPLY", b"OFF"))
        for first in range(0, count, BATCH):
            connection.sendall(b"".join(_session(number, dumped) for number in range(first, min(first + BATCH, count))))
        connection.sendall(_command(b"CLIENT", b"REPLY", b"ON"))
        if answers.readline() != b"+OK\r\n":
            raise RuntimeError("Redis did not take the sessions")


def key_of(number: int) -> bytes:
    return b"session:" + hashlib.sha256(b"%d" % number).hexdigest().encode()


def _session(number: int, dumped: bytes) -> bytes:
    """As the store's script makes one: the record, and the list of its user."""
    key, mine = key_of(number), b"user:%d:sessions" % (number + 1_000_000)
    return (
        _command(b"RESTORE", key, b"%d" % DAY_MS, dumped, b"REPLACE")
        + _command(b"ZADD", mine, b"%d" % (time.time() * 1e6), key)
        + _command(b"EXPIRE", mine, b"%d" % MONTH_SECONDS)
    )


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
