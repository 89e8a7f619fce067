"""Parsers for the text of settings. Each raises ValueError with a message that does not contain the value."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.headerregistry import Address
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

T = TypeVar("T")


@dataclass(frozen=True)
class RateLimit:
    """At most `limit` events in any period of `seconds`."""

    limit: int
    seconds: int

    def times(self, factor: int) -> RateLimit:
        return RateLimit(self.limit * factor, self.seconds)

    def __str__(self) -> str:
        # Config.fingerprint contains this text, and instances of different versions compare their fingerprints.
        return f"Rate(limit={self.limit}, seconds={self.seconds})"


def boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def choice(*options: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in options:
            raise ValueError(f"must be one of {', '.join(options)}")
        return text

    return parse


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def rate_limit(text: str) -> RateLimit:
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,3})?(s|min|h|d)", text)
    if not match:
        raise ValueError("must look like 10/15min or 20/h (units s, min, h, d)")
    count, multiple, unit = match.groups()
    return RateLimit(int(count), int(multiple or 1) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit])


def instance_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ValueError("must be 1 to 64 letters, digits, dots, underscores or hyphens")
    return text


def host(text: str) -> str:
    """Parse a host name or an address to listen on; an IPv6 address may be in brackets."""
    if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]|[0-9a-fA-F:.]+", text):
        raise ValueError("must be a host name or an address")
    return text.strip("[]")


def hosts(text: str) -> tuple[str, ...]:
    found = tuple(normalized_host(part.strip()) for part in text.split(",") if part.strip())
    if not all(found):
        raise ValueError("must be a comma-separated list of host names or addresses without ports, such as radar.example.org")
    return found


def normalized_host(text: str) -> str:
    """Return a host in one spelling: lower case, without the final dot, IPv6 without brackets. Empty if it is not a host."""
    try:
        return str(ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text))
    except ValueError:
        return text.lower().removesuffix(".") if re.fullmatch(r"[A-Za-z0-9._-]+", text) else ""


@dataclass(frozen=True)
class RedisServers:
    """The parts of a URL that names several servers: nodes of a Redis Cluster, or sentinels that know a service."""

    has_tls: bool
    username: str | None
    password: str | None
    addresses: tuple[tuple[str, int], ...]  # host and port of each server that is asked first
    service: str | None  # the name that the sentinels know; None for a cluster
    database: int


_REDIS_SERVERS = re.compile(r"redis(s?)\+(cluster|sentinel)://(?:(.*)@)?([^/?#]*)([^?#]*)(.*)", re.DOTALL)
_SERVER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")


def redis_url(text: str) -> str:
    if _REDIS_SERVERS.fullmatch(text):
        redis_servers(text)
        return text
    parts = _split_url(text)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss://, unix://, redis+cluster://, redis+sentinel:// (or rediss+ for TLS)")
    if parts.scheme == "unix" and not parts.path.startswith("/"):
        raise ValueError("must contain the path of a socket, as in unix:///path")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("contains no host")
    if not re.fullmatch(r"(db=[0-9]+)?" if parts.scheme == "unix" else r"", parts.query):
        raise ValueError(_REDIS_OPTIONS)
    if parts.scheme != "unix" and not re.fullmatch(r"(/[0-9]*)?", parts.path):
        raise ValueError("contains a database that is not a number")
    _refuse_placeholder(parts.password, "contains a placeholder instead of a password")
    return text


_REDIS_OPTIONS = "contains options; remove them (REDIS_CA_FILE and REDIS_TLS_VERIFY configure certificates)"


def redis_servers(text: str) -> RedisServers:
    """Parse `redis[s]+cluster://[user:password@]host:port[,host:port]` or `redis[s]+sentinel://...[,host:port]/service[/db]`."""
    match = _REDIS_SERVERS.fullmatch(text)
    if not match:
        raise ValueError("is not the URL of a Redis Cluster or of sentinels")
    tls, kind, login, servers, path, options = match.groups()
    if options:
        raise ValueError(_REDIS_OPTIONS)
    username, separator, password = (login or "").partition(":")
    if (login is not None and not separator) or (username and not password):
        raise ValueError("contains a user without a password")
    _refuse_placeholder(unquote(password), "contains a placeholder instead of a password")
    addresses = [_SERVER.fullmatch(server.strip()) for server in servers.split(",")]
    found = tuple((address[1].strip("[]"), int(address[2])) for address in addresses if address)
    if len(found) < len(addresses) or not all(0 < port < 65536 for _, port in found):
        raise ValueError("must name each server as host:port, separated by commas")
    service, database = _redis_service(path) if kind == "sentinel" else _no_redis_service(path)
    return RedisServers(bool(tls), unquote(username) or None, unquote(password) or None, found, service, database)


def _redis_service(path: str) -> tuple[str, int]:
    _, service, database, *rest = *path.split("/"), "", "", ""
    if not service:
        raise ValueError("must end with the name of a service that the sentinels know, as in redis+sentinel://host:26379/service")
    if any(rest) or not re.fullmatch(r"[0-9]{0,4}", database):
        raise ValueError("contains a database that is not a number")
    return unquote(service), int(database or 0)


def _no_redis_service(path: str) -> tuple[None, int]:
    if path not in ("", "/", "/0"):
        raise ValueError("contains a database, which a Redis Cluster does not have")
    return None, 0


def password(text: str) -> str:
    _refuse_placeholder(text, "is a placeholder instead of a password")
    return text


def database_url(text: str) -> str:
    parts = _split_url(text)
    if parts.scheme == "sqlite":
        if not text.startswith("sqlite:////"):
            raise ValueError("must contain the absolute path of a SQLite file, as in sqlite:////path")
        return text
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("must begin with postgresql:// or postgres://")
    if not parts.path.strip("/"):
        raise ValueError("contains no database name")
    _refuse_placeholder(parts.password, "contains a placeholder instead of a password")
    return "postgresql+psycopg2" + text[len(parts.scheme) :]


def _split_url(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    return parts


def encryption_keys(text: str) -> tuple[bytes, ...]:
    keys = []
    for part in text.split(","):
        if not re.fullmatch(r"[0-9a-fA-F]{64}", part.strip()):
            _refuse_placeholder(part.strip())
            raise ValueError("must be 64 hexadecimal characters (openssl rand -hex 32), or a comma-separated list of them")
        _refuse_placeholder(part.strip())
        keys.append(bytes.fromhex(part.strip()))
    return _distinct(keys)


def signing_secrets(text: str) -> tuple[str, ...]:
    values = [part.strip() for part in text.split(",")]
    for value in values:
        _refuse_placeholder(value)
        if len(value) < 32:
            raise ValueError("must be at least 32 characters (openssl rand -hex 32), or a comma-separated list of them")
    return _distinct(values)


def _distinct(values: Sequence[T]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("contains the same key twice")
    return tuple(values)


PLACEHOLDER_WORDS = re.compile(
    r"your[-_ ]|change[-_ ]?(me|this|it)|replace[-_ ]?(me|this|with)|secret[-_ ]?(key|here)"
    r"|insert[-_ ]|placeholder|example|<.*>|\$\{",
    re.IGNORECASE,
)
PLACEHOLDER_VALUES = {"password", "secret", "0123456789abcdef" * 4, "deadbeef" * 8}


def _refuse_placeholder(value: str | None, message: str = "is a placeholder; use your own secret (openssl rand -hex 32)") -> None:
    if value is None:
        return
    is_repetitive = len(value) >= 32 and len(set(value)) < 4
    if is_repetitive or value.lower() in PLACEHOLDER_VALUES or PLACEHOLDER_WORDS.search(value):
        raise ValueError(message)


def origins(text: str) -> tuple[str, ...]:
    """Parse origins and normalize them as browsers send them: in lower case and without the default port."""
    return tuple(_origin(part.strip()) for part in text.split(",") if part.strip())


def _origin(text: str) -> str:
    match = re.fullmatch(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?/?", text.lower())
    if not match:
        raise ValueError("must be a comma-separated list of origins such as https://app.example.org")
    scheme, host, port = match.groups()
    default = {"http": ":80", "https": ":443"}[scheme]
    return f"{scheme}://{host}" + (port if port and port != default else "")


def public_url(text: str) -> str:
    """Parse the address of the site. It has no path, because cookies and links of the pages belong to a whole host."""
    try:
        return _origin(text)
    except ValueError:
        raise ValueError("must be the address of a site without a path, such as https://radar.example.org") from None


def collector_url(text: str) -> str:
    parts = _split_url(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be the address of a collector for OTLP over HTTP, such as http://127.0.0.1:4318")
    return text


def smtp_url(text: str) -> str:
    parts = _split_url(text)
    if parts.scheme not in ("smtp", "smtps"):
        raise ValueError("must begin with smtp:// or smtps://")
    if not parts.hostname:
        raise ValueError("contains no host")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("contains more than user, password, host and port; write special characters as %XX")
    if (not parts.username) != (not parts.password):
        raise ValueError("must contain a user and a password, or neither")
    _refuse_placeholder(parts.password, "contains a placeholder instead of a password")
    return text


def mail_from(text: str) -> str:
    """Parse a sender: `radar@example.org` or `RepoRadar <radar@example.org>`."""
    match = re.fullmatch(r'"?([^"<>]*?)"? *<([^<>\s]+)>|([^<>\s]+)', text)
    try:
        if not match or not text.isprintable():
            raise ValueError
        sender = Address(match[1] or "", addr_spec=match[2] or match[3])
        if not (sender.username and sender.domain and sender.addr_spec.isascii()):
            raise ValueError
    except (ValueError, IndexError, HeaderParseError):
        raise ValueError("must be an e-mail address such as radar@example.org or RepoRadar <radar@example.org>") from None
    return str(sender)


def folders(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(part) for part in text.split(":") if part)
    if not all(folder.is_absolute() for folder in paths):
        raise ValueError("must be a colon-separated list of absolute paths")
    return paths


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("must be a comma-separated list of networks such as 10.1.0.0/16") from None


def file_to_write(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ValueError("names a file in a folder that can't be written")
    return path


def readable_file(text: str) -> str:
    if not (Path(text).is_file() and os.access(text, os.R_OK)):
        raise ValueError("names a file that can't be read")
    return text
