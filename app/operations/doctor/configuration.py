"""The settings: their faults, and what is unwise about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from app.core.config import Config
from app.operations.doctor.findings import Finding, fail, ok, warn


def faults(found: Sequence[str]) -> Iterator[Finding]:
    for fault in found:
        name = fault.partition(":")[0]
        yield fail(f"configuration: {fault}", f"See {name} in docs/configuration.md; no process starts with it (exit status 78)")


def examine(config: Config) -> Iterator[Finding]:
    mode = "fleet mode" if config.use_redis_sessions else "embedded mode, one instance"
    yield ok(f"configuration: {mode}, {config.app_env}; no fault in it")
    if config.use_redis_sessions:
        yield from _redis_access(config)


def _redis_access(config: Config) -> Iterator[Finding]:
    url = urlsplit(config.redis_url or "")
    near = url.scheme == "unix" or is_this_machine(url.hostname or "")
    if url.password:
        yield ok("configuration: Redis asks for a password (AUTH)")
    elif near:
        yield ok("configuration: no password for Redis (AUTH), which is on this machine")
    else:
        yield warn(
            "configuration: no password for Redis (AUTH), which is on another machine",
            "Whoever reaches it can end sessions: set requirepass there, and redis://default:PASSWORD@HOST in REDIS_URL",
        )
    if url.scheme == "rediss" and config.redis_tls_verify:
        yield ok("configuration: the way to Redis is encrypted (TLS), and its certificate is verified")
    elif url.scheme == "rediss":
        yield warn(
            "configuration: TLS to Redis without a look at its certificate (REDIS_TLS_VERIFY=false)",
            "Anybody in between can read along: name its authority in REDIS_CA_FILE, and take REDIS_TLS_VERIFY away",
        )
    elif near:
        yield ok("configuration: no TLS to Redis, which is on this machine")
    else:
        yield warn("configuration: no TLS to Redis, which is on another machine", "Use rediss:// and REDIS_CA_FILE")


def is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
