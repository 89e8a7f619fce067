"""Redis: whether it answers, how fast, and whether it is set up to be relied upon."""

from __future__ import annotations

import math
import socket
import statistics
import time
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import urlsplit

import redis

from app.core.config import Config
from app.operations.doctor.findings import Finding, fail, graded, in_words, ok, warn
from app.redis.client import MAX_CONNECTIONS

TIMEOUT_SECONDS = 2.0
PINGS = 20
ATTEMPTS, PAUSE_SECONDS = 3, 0.3
WARN_MS, FAIL_MS = 1.0, 10.0
CONNECTIONS_OF_AN_INSTANCE = 2 * MAX_CONNECTIONS + 1  # two clients, each with a pool, and the one that requests share
MOST_OF_IT = 80  # percent of a limit
TRIED_VERSION = 7
AWAY = 'Is it running, and are address and port in REDIS_URL right? redis-cli -u "$REDIS_URL" ping'


def address(config: Config) -> str:
    """Where it is, without its password."""
    url = urlsplit(config.redis_url or "")
    return url.path if url.scheme == "unix" else f"{url.hostname}:{url.port or 6379}{url.path}"


def look_up(host: str) -> None:
    """May take longer than any limit."""
    socket.getaddrinfo(host, None)


def reach(client: redis.Redis, where: str) -> Generator[Finding, None, bool]:
    """Whether there is any use in asking more."""
    try:
        client.ping()
        median = _round_trip(client)
    except redis.exceptions.AuthenticationError:
        yield fail(
            f"redis refuses the password: {where}", "Compare the password in REDIS_URL with its requirepass or users (ACL)"
        )
    except redis.exceptions.BusyLoadingError:
        yield fail(f"redis is still loading its data: {where}", 'Wait for it: redis-cli -u "$REDIS_URL" info persistence')
    except redis.exceptions.TimeoutError:
        yield fail(f"redis does not answer within {TIMEOUT_SECONDS:g} s: {where}", AWAY)
    except redis.RedisError as error:
        yield fail(f"redis does not answer: {where}: {in_words(error)}", AWAY)
    else:
        yield graded(
            median,
            warn_above=WARN_MS,
            fail_above=FAIL_MS,
            text=f"redis answers: {median:.2f} ms (median of {PINGS}), {where}",
            advice="Every signed-in request waits for it: move it closer, or give it more processor; see redis-cli --latency",
        )
        return True
    return False


def examine(client: redis.Redis, instances: int) -> Iterator[Finding]:
    """`instances`: how many live."""
    try:
        facts: dict[str, Any] = client.info()
    except redis.RedisError as error:
        yield warn(f"redis does not tell about itself: {in_words(error)}", "Allow INFO to its user (ACL), to have it examined")
        return
    yield _version(facts)
    yield from _role(facts)
    yield _eviction(facts)
    yield from _persistence(facts)
    yield _memory(facts)
    yield _clients(facts, instances)


def _round_trip(client: redis.Redis) -> float:
    """In milliseconds. What looks slow is measured again: a busy moment is no distance."""
    best = math.inf
    for _ in range(ATTEMPTS):
        best = min(best, statistics.median(_milliseconds(client) for _ in range(PINGS)))
        if best <= WARN_MS:
            break
        time.sleep(PAUSE_SECONDS)
    return best


def _milliseconds(client: redis.Redis) -> float:
    started = time.perf_counter()
    client.ping()
    return (time.perf_counter() - started) * 1000


def _version(facts: dict[str, Any]) -> Finding:
    version = str(facts["redis_version"])
    if int(version.split(".")[0]) < TRIED_VERSION:
        return warn(f"redis is version {version}", f"RepoRadar was tried with {TRIED_VERSION}.0: upgrade it")
    return ok(f"redis is version {version}")


def _role(facts: dict[str, Any]) -> Iterator[Finding]:
    if facts.get("role") == "slave":
        yield fail("redis is a replica, which can't be written to", "Let REDIS_URL name the primary")
    if facts.get("cluster_enabled"):
        yield fail("redis is a Redis Cluster, whose protocol is not spoken", "Use one server, or a managed one with failover")


def _eviction(facts: dict[str, Any]) -> Finding:
    policy, lost = facts.get("maxmemory_policy", "unknown"), facts.get("evicted_keys", 0)
    advice = "Set maxmemory-policy noeviction: otherwise a full Redis throws away sessions and jobs"
    if policy != "noeviction":
        return fail(f"redis: eviction policy {policy}", advice)
    if lost:
        return warn(
            f"redis: eviction policy noeviction, but it has thrown away {lost} keys before", "People were signed out by it"
        )
    return ok("redis: eviction policy noeviction")


def _persistence(facts: dict[str, Any]) -> Iterator[Finding]:
    if not facts.get("aof_enabled"):
        yield warn(
            "redis: persistence without append-only file (AOF off)",
            "A restart of Redis signs everybody out, and loses analytics events that wait for storing: set appendonly yes",
        )
    elif facts.get("aof_last_write_status", "ok") != "ok":
        yield fail("redis: its append-only file can't be written", "It refuses to write: look at its disk and its log")
    else:
        yield ok("redis: persistence by append-only file (AOF on)")
    if facts.get("rdb_last_bgsave_status", "ok") != "ok":
        yield warn("redis: its last snapshot failed", "It may refuse to write: look at its disk and its log")


def _memory(facts: dict[str, Any]) -> Finding:
    used, most = facts["used_memory"], facts.get("maxmemory", 0)
    if not most:
        return ok(f"redis: uses {_megabytes(used)} of memory, without a limit of its own")
    percent = 100 * used / most
    return graded(
        percent,
        warn_above=MOST_OF_IT,
        fail_above=95,
        text=f"redis: uses {_megabytes(used)} of {_megabytes(most)} of memory, {percent:.0f} %",
        advice="When it is full nobody can sign in any more: raise maxmemory",
    )


def _clients(facts: dict[str, Any], instances: int) -> Finding:
    now, most = facts["connected_clients"], facts.get("maxclients")
    if not most:
        return ok(f"redis: {now} connections")
    text = f"redis: {now} of {most} connections in use"
    if instances:
        text += f"; {instances} live instances may take {instances * CONNECTIONS_OF_AN_INSTANCE}"
    advice = "Raise maxclients (and the limit of open files of Redis), or run fewer instances"
    if 100 * now / most > MOST_OF_IT:
        return fail(text, advice)
    return warn(text, advice) if instances * CONNECTIONS_OF_AN_INSTANCE > most else ok(text)


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB"
