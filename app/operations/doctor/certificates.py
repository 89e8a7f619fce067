"""The certificates of Redis, PostgreSQL and the site: whether they are valid for long enough. One line for each server."""

import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

import redis
from cryptography import x509
from sqlalchemy import make_url

from app.core.config import Config
from app.operations.doctor.findings import Finding, describe_error, fail, ok, warn
from app.operations.doctor.redis import look_up, servers
from app.operations.doctor.site import Unreachable, within
from app.redis.client import is_cluster
from app.redis.sentinel import Sentinels

WARN_BEFORE = timedelta(days=14)
TIMEOUT_SECONDS = 3.0
# The message SSLRequest, with its length: https://www.postgresql.org/docs/current/protocol-message-formats.html
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
ENCRYPTED = ("require", "verify-ca", "verify-full")  # values of sslmode; with others, a connection may be unencrypted

_REFUSED = ". Instances refuse an expired one"
_RENEW_REDIS = "Renew it and restart the server, or CONFIG SET tls-cert-file FILE tls-key-file FILE"
_RENEW_SENTINEL = "Renew it and restart the sentinel"
_RENEW_POSTGRES = (
    "Renew it, then load it: SELECT pg_reload_conf(). Instances with sslmode=verify-ca or verify-full refuse an expired one"
)
_RENEW_SITE = "Renew it, then load it: nginx -s reload. Browsers refuse an expired one"


@dataclass(frozen=True)
class TlsServer:
    name: str
    host: str
    port: int
    advice: str
    is_postgres: bool = False
    is_verified: bool = True  # by the instances or browsers, which refuse an expired certificate
    is_examined_elsewhere: bool = True  # another line of the doctor says that it does not answer


def examine(config: Config, client: redis.Redis | None, sentinels: Sentinels | None, urls: Sequence[str]) -> Iterator[Finding]:
    """Examine the certificates of the stores, of PUBLIC_URL and of the given addresses. They are read, but not verified."""
    yield from _examine([*_redis_servers(config, client, sentinels), *_database(config), *_sites(urls, config.public_url)])


def examine_sites(urls: Sequence[str]) -> Iterator[Finding]:
    yield from _examine(list(_sites(urls, None)))


def _examine(found: Sequence[TlsServer]) -> Iterator[Finding]:
    if not found:
        return
    with ThreadPoolExecutor(len(found)) as threads:
        for server, expiry in zip(found, threads.map(_read_expiry, found), strict=True):
            if isinstance(expiry, datetime):
                yield _judge(server, expiry, datetime.now(UTC))
            elif not server.is_examined_elsewhere:
                text = f"certificate: {server.name} does not answer: {describe_error(expiry)}"
                yield warn(text, "Check that PUBLIC_URL is right, and that this machine may connect to it")


def _judge(server: TlsServer, expiry: datetime, now: datetime) -> Finding:
    if expiry <= now:
        text = f"certificate: {server.name}: expired on {expiry:%Y-%m-%d}"
        return fail(text, server.advice) if server.is_verified else warn(f"{text}; it is not verified", server.advice)
    left = expiry - now
    text = f"certificate: {server.name}: expires on {expiry:%Y-%m-%d}, in {left.days} days"
    return warn(text, server.advice) if left < WARN_BEFORE else ok(text)


def _redis_servers(config: Config, client: redis.Redis | None, sentinels: Sentinels | None) -> Iterator[TlsServer]:
    """The servers that REDIS_URL names, and those that they name: the primary of sentinels, the masters of a cluster."""
    if client is None or not (config.redis_url or "").startswith("rediss"):
        return
    kind = "sentinel" if sentinels else "redis"
    named = [(kind, host, port) for host, port in servers(config)]
    with suppress(redis.RedisError):
        if sentinels:
            named.append(("redis", *sentinels.find_primary()))
        elif is_cluster(client):
            named += [("redis", address.host, address.port) for address in client.topology.masters()]
    for kind, host, port in dict.fromkeys(named):
        advice = (_RENEW_SENTINEL if kind == "sentinel" else _RENEW_REDIS) + (_REFUSED if config.redis_tls_verify else "")
        yield TlsServer(f"{kind} {host}:{port}", host, port, advice, is_verified=config.redis_tls_verify)


def _database(config: Config) -> Iterator[TlsServer]:
    url = make_url(config.database_url)
    mode = url.query.get("sslmode") or os.environ.get("PGSSLMODE")
    if url.host and mode in ENCRYPTED:
        port = url.port or 5432
        name, is_verified = f"database {url.host}:{port}", mode != "require"
        yield TlsServer(name, url.host, port, _RENEW_POSTGRES, is_postgres=True, is_verified=is_verified)


def _sites(urls: Sequence[str], public_url: str | None) -> Iterator[TlsServer]:
    for address in dict.fromkeys([*urls, *([public_url] if public_url else [])]):
        parts = urlsplit(address)
        if parts.scheme == "https" and parts.hostname:
            yield TlsServer(
                f"https://{parts.netloc}",
                parts.hostname,
                parts.port or 443,
                _RENEW_SITE,
                is_examined_elsewhere=address in urls,
            )


def _read_expiry(server: TlsServer) -> datetime | Exception:
    """Return when the certificate expires that the server presents, or why it presents none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a verification would hide an expired certificate
    try:
        within(TIMEOUT_SECONDS, partial(look_up, server.host))
        with socket.create_connection((server.host, server.port), timeout=TIMEOUT_SECONDS) as connection:
            if server.is_postgres:
                connection.sendall(SSL_REQUEST)
                if connection.recv(1) != b"S":
                    return OSError("it offers no TLS")
            with context.wrap_socket(connection, server_hostname=server.host) as tls:
                certificate = tls.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(certificate or b"").not_valid_after_utc
    except (OSError, Unreachable, ValueError) as error:  # ValueError: an invalid certificate, or a name that no host can have
        return error
