"""The settings: their faults, and insecure choices."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from app.core.config import Config
from app.core.config_parsers import normalized_host
from app.operations.doctor.findings import Finding, fail, ok, warn
from app.operations.doctor.redis import has_password, servers


def faults(found: Sequence[str]) -> Iterator[Finding]:
    for fault in found:
        name = fault.partition(":")[0]
        advice = f"See {name} in docs/configuration.md. Until it is fixed, every process exits with status 78"
        yield fail(f"configuration: {fault}", advice)


def examine(config: Config) -> Iterator[Finding]:
    mode = "fleet mode" if config.use_redis_sessions else "embedded mode, one instance"
    yield ok(f"configuration: {mode}, {config.app_env}; all settings are valid")
    if config.use_redis_sessions:
        yield from _redis_access(config)
    if config.is_production and not config.trusted_hosts:
        yield warn(
            "configuration: requests for any host name are served (TRUSTED_HOSTS is not set)",
            "Set TRUSTED_HOSTS to the names of the site: this protects against DNS rebinding",
        )
    if config.public_url:
        yield from _public_url(config, urlsplit(config.public_url))


def _public_url(config: Config, url: SplitResult) -> Iterator[Finding]:
    if config.trusted_hosts and normalized_host(url.hostname or "") not in config.trusted_hosts:
        yield warn(
            "configuration: requests for the host of PUBLIC_URL are refused",
            "Links in mails lead there: add this host to TRUSTED_HOSTS, or correct PUBLIC_URL",
        )
    if config.is_production and url.scheme == "http":
        yield warn(
            "configuration: PUBLIC_URL begins with http",
            "Nobody can sign in over http in production: begin it with https, or set APP_ENV=development",
        )


def _redis_access(config: Config) -> Iterator[Finding]:
    has_tls = (config.redis_url or "").startswith("rediss")
    hosts = [host for host, _ in servers(config)]
    is_local = all(map(is_this_machine, hosts))  # also for a Unix socket, which has no host
    if has_password(config):
        yield ok("configuration: Redis is accessed with a password (AUTH)")
    elif is_local:
        yield ok("configuration: Redis is accessed without a password (AUTH), but it is on this machine")
    else:
        yield warn(
            "configuration: Redis is on another machine and is accessed without a password (AUTH)",
            "Anyone who reaches it can end sessions: set requirepass there, and redis://default:PASSWORD@HOST in REDIS_URL",
        )
    if has_tls and config.redis_tls_verify:
        yield ok("configuration: the connection to Redis is encrypted (TLS), and its certificate is verified")
    elif has_tls:
        yield warn(
            "configuration: the certificate of Redis is not verified (REDIS_TLS_VERIFY=false)",
            "A machine in between can read the traffic: set REDIS_CA_FILE and remove REDIS_TLS_VERIFY",
        )
    elif is_local:
        yield ok("configuration: the connection to Redis is not encrypted (no TLS), but it stays on this machine")
    else:
        yield warn(
            "configuration: Redis is on another machine, and the connection is not encrypted (no TLS)",
            "Use rediss:// in REDIS_URL, and set REDIS_CA_FILE",
        )


def is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
