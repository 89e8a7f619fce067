"""Connections to Redis: named after the instance, few, verified, and impatient."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.config import Config
from app.core.errors import Unavailable

MAX_CONNECTIONS = 50
POOL_TIMEOUT_SECONDS = 0.3  # waiting for a free connection; with the next line, a hung Redis costs a request 1.3 s
SOCKET_TIMEOUT_SECONDS = 1.0


def connect(config: Config, instance_id: str, *, timeout: float = SOCKET_TIMEOUT_SECONDS) -> redis.Redis:
    """A client that connects when it is first used. Nothing is retried: whoever asked decides, a write may not be repeated."""
    assert config.redis_url is not None
    pool = redis.BlockingConnectionPool.from_url(
        config.redis_url,
        client_name=instance_id,
        max_connections=MAX_CONNECTIONS,
        timeout=POOL_TIMEOUT_SECONDS,
        socket_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **_network_options(config),
    )
    return redis.Redis.from_pool(pool)  # so that closing the client closes the pool


def _network_options(config: Config) -> dict[str, Any]:
    url = config.redis_url or ""
    if url.startswith("unix:"):
        return {}
    options: dict[str, Any] = {"socket_connect_timeout": SOCKET_TIMEOUT_SECONDS, "socket_keepalive": True}
    if url.startswith("rediss:"):
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED if config.redis_tls_verify else ssl.CERT_NONE
        options["ssl_check_hostname"] = config.redis_tls_verify
        options["ssl_ca_certs"] = config.redis_ca_file
    return options


@contextmanager
def available() -> Iterator[None]:
    """Turns any failure of Redis into a 503; a full, a read-only or a loading Redis is unavailable as well."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable("The session store does not answer. Please try again in a moment.") from error
