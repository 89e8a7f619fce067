"""Very many sessions in Redis: a read of one, the room that they take, and the census of the keys that they need."""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Iterator

import redis

from app.sessions.redis_store import RedisSessionStore
from bench.growth.fleet import Fleet, fleet, load, spent
from bench.growth.series import Line, Panel, Series
from tests.functional.users import User
from tests.servers import Instance

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 3
SECONDS = 1.5
LOOKED_UP = 10_000
FULL_CENSUS = 100_000  # of more, one round
DAY_MS, MONTH_SECONDS = 86_400_000, 2_592_000


def measure() -> Series:
    instance_read, redis_read, redis_alone = Line("instance"), Line("Redis"), Line("Redis, any session")
    room, census, census_redis = Line("Redis"), Line("instance"), Line("Redis")
    with fleet() as servers, redis.Redis.from_url(servers.redis.url, protocol=2) as client:
        instance = servers.start()
        user = User(instance).register()
        empty, there = client.info("memory")["used_memory"], 0
        for size in SIZES:
            fill(servers, client, there, size)
            there = size
            room.add(size, (client.info("memory")["used_memory"] - empty) / size)
            for _ in range(ROUNDS):
                of_instance, of_redis = _read(servers, instance, user)
                instance_read.add(size, of_instance)
                redis_read.add(size, of_redis)
                redis_alone.add(size, _look_up(servers, client, size))
            for _ in range(ROUNDS if size <= FULL_CENSUS else 1):
                of_process, of_redis = _census(servers, client)
                census.add(size, of_process * 1e6 / size)
                census_redis.add(size, of_redis * 1e6 / size)
    return Series(
        "sessions in Redis",
        [
            Panel("authenticated read", "us of CPU", [instance_read, redis_read, redis_alone]),
            Panel("memory of one", "bytes", [room]),
            Panel("census, for each", "us of CPU", [census, census_redis]),
        ],
    )


def fill(servers: Fleet, client: redis.Redis, first: int, last: int) -> None:
    """The one real record, under other keys; none could be opened there, but Redis does not know. Each has a user of its own."""
    record = next(key for key in client.scan_iter("session:*") if client.ttl(key) > 0)
    dumped = client.dump(record)
    assert isinstance(dumped, bytes)
    with socket.create_connection(("127.0.0.1", servers.redis.port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(_command(b"CLIENT", b"REPLY", b"OFF"))
        for batch in _batches(first, last):
            connection.sendall(b"".join(_session(number, dumped) for number in batch))
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


def _batches(first: int, last: int, length: int = 1000) -> Iterator[range]:
    return (range(start, min(start + length, last)) for start in range(first, last, length))


def _read(servers: Fleet, instance: Instance, user: User) -> list[float]:
    with spent(instance.pid, servers.redis.pid) as cpu:
        count = load(instance, "/bench/read", f"session={user.cookie}", SECONDS)
    return [seconds * 1e6 / count for seconds in cpu]


def _look_up(servers: Fleet, client: redis.Redis, size: int) -> float:
    """Of any session: the same one again and again stays in the processor's caches."""
    with spent(servers.redis.pid) as cpu:
        for _ in range(LOOKED_UP):
            client.hgetall(key_of(secrets.randbelow(size)))
    return cpu[0] * 1e6 / LOOKED_UP


def _census(servers: Fleet, client: redis.Redis) -> tuple[float, float]:
    started = time.process_time()
    with spent(servers.redis.pid) as cpu:
        for _ in RedisSessionStore(client, MONTH_SECONDS).key_ids_in_use():
            pass
    return time.process_time() - started, cpu[0]
