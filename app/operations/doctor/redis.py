"""Redis: whether it answers, how fast, and whether its configuration is safe for sessions and jobs."""

import math
import socket
import statistics
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import redis

from app.core.config import Config
from app.core.config_parsers import RedisServers, redis_servers
from app.operations.doctor import cluster, replication
from app.operations.doctor.findings import Finding, describe_error, fail, graded, ok, warn
from app.redis.client import CONNECTIONS_PER_PROCESS, is_cluster
from app.redis.cluster import ClusterClient

TIMEOUT_SECONDS = 2.0
PINGS = 20
ATTEMPTS, PAUSE_SECONDS = 3, 0.3
WARN_MS, FAIL_MS = 1.0, 10.0
NEARLY_FULL_PERCENT, FULL_PERCENT = 80, 95
OLDEST_TESTED_VERSION = 7
CHECK_ADDRESS = 'Check that it runs and that REDIS_URL is right: redis-cli -u "$REDIS_URL" ping'


def servers(config: Config) -> list[tuple[str, int]]:
    """Return host and port of each server in REDIS_URL: nodes of a cluster, or sentinels. None for a Unix socket."""
    if several := _several_servers(config):
        return list(several.addresses)
    url = urlsplit(config.redis_url or "")
    return [(url.hostname, url.port or 6379)] if url.hostname else []


def address(config: Config) -> str:
    """Return where Redis is, without its password."""
    where = ",".join(f"{host}:{port}" for host, port in servers(config))
    if several := _several_servers(config):
        return f"{where}/{several.service}/{several.database}" if several.service else where
    return where + urlsplit(config.redis_url or "").path


def has_password(config: Config) -> bool:
    if several := _several_servers(config):
        return several.password is not None
    return bool(urlsplit(config.redis_url or "").password)


def _several_servers(config: Config) -> RedisServers | None:
    """Return the parts of a URL that names several servers. `urlsplit` misreads one whose password contains a slash."""
    url = config.redis_url or ""
    return redis_servers(url) if "+" in url.partition(":")[0] else None


def look_up(host: str) -> None:
    """Resolve the host name. This has no timeout of its own."""
    socket.getaddrinfo(host, None)


def reach(client: redis.Redis, where: str) -> Generator[Finding, None, bool]:
    """Measure the latency. Return whether Redis answers."""
    try:
        if is_cluster(client):
            _find_lost_masters(client)
        client.ping()
        median = _round_trip_ms(client)
    except redis.exceptions.AuthenticationError:
        advice = "Compare the password in REDIS_URL with requirepass or the users (ACL) of Redis"
        yield fail(f"redis refuses the password: {where}", advice)
    except redis.exceptions.BusyLoadingError:
        advice = 'Wait until it has finished: redis-cli -u "$REDIS_URL" info persistence'
        yield fail(f"redis is still loading its data: {where}", advice)
    except redis.exceptions.TimeoutError:
        yield fail(f"redis does not answer within {TIMEOUT_SECONDS:g} s: {where}", CHECK_ADDRESS)
    except redis.RedisError as error:
        yield fail(f"redis does not answer: {where}: {describe_error(error)}", CHECK_ADDRESS)
    else:
        yield graded(
            median,
            warn_above=WARN_MS,
            fail_above=FAIL_MS,
            text=f"redis answers: {median:.2f} ms (median of {PINGS}), {where}",
            advice="Every signed-in request waits for it: move it closer or give it more CPU; measure with redis-cli --latency",
        )
        return True
    return False


def write_error(client: redis.Redis) -> str | None:
    """Return why Redis refuses writes, or None if it accepts them. If it refuses them, the registry is out of date."""
    try:
        client.set("doctor:write", "", px=1)
    except redis.RedisError as error:
        return describe_error(error)
    return None


def examine(client: redis.Redis, instances: int, *, has_failover: bool) -> Iterator[Finding]:
    """Examine the configuration of Redis for this number of live instances. `has_failover`: sentinels watch it."""
    if is_cluster(client):
        yield from cluster.examine(client)
        for node in client.topology.masters():
            for finding in _examine_server(client.node(node), instances, has_failover=True):
                yield replace(finding, text=f"redis {node.host}:{node.port}" + finding.text.removeprefix("redis"))
    else:
        yield from _examine_server(client, instances, has_failover=has_failover)


def _examine_server(client: redis.Redis, instances: int, *, has_failover: bool) -> Iterator[Finding]:
    try:
        info: dict[str, Any] = client.info()
    except redis.RedisError as error:
        yield warn(f"redis does not answer INFO: {describe_error(error)}", "Allow the command INFO to its user (ACL)")
        return
    yield _version(info)
    yield from replication.examine(info) if has_failover else _role(info)
    yield _eviction(info)
    yield from _persistence(info)
    yield _memory(info)
    yield _clients(info, instances)


def _find_lost_masters(client: ClusterClient) -> None:
    """Make the client avoid masters that do not answer: one that does is enough to examine the cluster."""
    for address in client.topology.masters():
        with suppress(redis.RedisError), client.topology.refreshing_after_errors(address):
            client.node(address).ping()


def _round_trip_ms(client: redis.Redis) -> float:
    """Return the median latency. A slow result is measured again, because a short load peak is not a distance."""
    best = math.inf
    for _ in range(ATTEMPTS):
        best = min(best, statistics.median(_ping_ms(client) for _ in range(PINGS)))
        if best <= WARN_MS:
            break
        time.sleep(PAUSE_SECONDS)
    return best


def _ping_ms(client: redis.Redis) -> float:
    started = time.perf_counter()
    client.ping()
    return (time.perf_counter() - started) * 1000


def _version(info: dict[str, Any]) -> Finding:
    version = str(info["redis_version"])
    if int(version.split(".")[0]) < OLDEST_TESTED_VERSION:
        return warn(f"redis is version {version}", f"Upgrade it: RepoRadar is tested with {OLDEST_TESTED_VERSION}.0 and newer")
    return ok(f"redis is version {version}")


def _role(info: dict[str, Any]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield fail("redis is a read-only replica", "Set REDIS_URL to the primary")
    if info.get("cluster_enabled"):
        yield fail("redis is a node of a Redis Cluster", "Set REDIS_URL to redis+cluster://host:port,host:port")


def _eviction(info: dict[str, Any]) -> Finding:
    policy, evicted = info.get("maxmemory_policy", "unknown"), info.get("evicted_keys", 0)
    if policy != "noeviction":
        advice = "Set maxmemory-policy noeviction: otherwise Redis evicts sessions and jobs when it is full"
        return fail(f"redis: eviction policy {policy}", advice)
    if evicted:
        text = f"redis: eviction policy noeviction, but it has evicted {evicted} keys before"
        return warn(text, "Users may have been signed out: give Redis enough memory and keep the policy")
    return ok("redis: eviction policy noeviction")


def _persistence(info: dict[str, Any]) -> Iterator[Finding]:
    if not info.get("aof_enabled"):
        yield warn(
            "redis: persistence without append-only file (AOF off)",
            "Set appendonly yes: otherwise a restart of Redis signs everyone out and loses queued analytics events",
        )
    elif info.get("aof_last_write_status", "ok") != "ok":
        yield fail("redis: it can't write its append-only file and refuses writes", "Check its disk and its log")
    else:
        yield ok("redis: persistence by append-only file (AOF on)")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield warn("redis: its last snapshot failed, so it may refuse writes", "Check its disk and its log")


def _memory(info: dict[str, Any]) -> Finding:
    used, limit = info["used_memory"], info.get("maxmemory", 0)
    if not limit:
        return ok(f"redis: uses {_megabytes(used)} of memory, without a limit of its own")
    percent = 100 * used / limit
    return graded(
        percent,
        warn_above=NEARLY_FULL_PERCENT,
        fail_above=FULL_PERCENT,
        text=f"redis: uses {_megabytes(used)} of {_megabytes(limit)} of memory, {percent:.0f} %",
        advice="Raise maxmemory: nobody can sign in when it is full",
    )


def _clients(info: dict[str, Any], instances: int) -> Finding:
    used, limit = info["connected_clients"], info.get("maxclients")
    if not limit:
        return ok(f"redis: {used} connections in use")
    text = f"redis: {used} of {limit} connections in use"
    if instances:
        text += f"; {instances} live instances may open {instances * CONNECTIONS_PER_PROCESS}"
    advice = "Raise maxclients (and the limit of open files of Redis), or run fewer instances"
    if 100 * used / limit > NEARLY_FULL_PERCENT:
        return fail(text, advice)
    return warn(text, advice) if instances * CONNECTIONS_PER_PROCESS > limit else ok(text)


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB"
