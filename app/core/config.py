"""The settings: read once from the environment, typed, and validated together.

Each field of `Config` is one environment variable (its name in capitals). `load()` reads all of them and raises one `ConfigError`
with every fault that it found. A fault names the variable and never contains its value.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, NoReturn

from dotenv import dotenv_values

from app.core import config_parsers as parsers
from app.core.config_parsers import RateLimit

EX_CONFIG = 78  # sysexits.h: the configuration is invalid; a supervisor should not restart the process
PROJECT_ROOT = Path(__file__).resolve().parents[2]

# Environment variables that identify platforms whose disks are emptied at each restart. Kubernetes is not in the list, because
# developers and continuous integration run in its pods too.
EPHEMERAL_DISKS = {"DYNO": "Heroku", "RENDER": "Render", "FLY_APP_NAME": "Fly.io"}

Values = dict[str, Any]


class ConfigError(Exception):
    """The configuration is invalid. `faults` lists every fault as `NAME: what is wrong`."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def _setting(
    parse: Callable[[str], Any],
    default: str | Callable[[Values], str] | None,
    help: str,
    *,
    shown_default: str = "",
    secret: bool = False,
) -> Any:
    metadata = {"parse": parse, "default": default, "help": help, "secret": secret, "shown_default": shown_default}
    return dataclasses.field(metadata=metadata, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of this process. A default may depend on the fields above it."""

    use_redis_sessions: bool = _setting(
        parsers.boolean,
        "false",
        "`true`: fleet mode, state in Redis and PostgreSQL; `false`: embedded mode, one instance, no server",
    )
    app_env: str = _setting(
        parsers.choice("production", "development"),
        lambda values: "production" if values["use_redis_sessions"] else "development",
        "`production`: `Secure` `__Host-` cookies and HSTS, therefore https; `development` works over plain http",
        shown_default="`production` in fleet mode, else `development`",
    )
    redis_url: str | None = _setting(
        parsers.redis_url,
        None,
        "one server: a `redis://`, `rediss://` or `unix://` URL; Redis Cluster: "
        "`redis+cluster://[user:password@]host:port[,host:port...]`; Sentinel: "
        "`redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]`; the latter two with TLS as `rediss+...`; "
        "required in fleet mode",
        secret=True,
    )
    redis_sentinel_password: str | None = _setting(
        parsers.password,
        None,
        "password of the sentinels, where it differs from the one in `REDIS_URL`",
        shown_default="the password in `REDIS_URL`",
        secret=True,
    )
    redis_ca_file: str | None = _setting(
        parsers.readable_file, None, "CA certificate file for a `rediss://` server", shown_default="system store"
    )
    redis_tls_verify: bool = _setting(parsers.boolean, "true", "`false` accepts any certificate of a `rediss://` server")
    session_encryption_key: tuple[bytes, ...] = _setting(
        parsers.encryption_keys,
        None,
        "64 hexadecimal characters; to rotate, a comma-separated list with the newest key first; required in fleet mode",
        shown_default="embedded mode: generated at the first start",
        secret=True,
    )
    session_secret: tuple[str, ...] = _setting(
        parsers.signing_secrets,
        None,
        "at least 32 characters; to rotate, a comma-separated list with the newest secret first; required in fleet mode",
        shown_default="embedded mode: generated at the first start",
        secret=True,
    )
    database_url: str = _setting(
        parsers.database_url,
        lambda values: "" if values["use_redis_sessions"] else f"sqlite:///{PROJECT_ROOT}/instance/reporadar.db",
        "`postgresql://` or `postgres://`, required in fleet mode; embedded mode also takes `sqlite:////absolute/path`",
        shown_default="a SQLite file under `instance/`",
        secret=True,
    )
    database_pool_size: int = _setting(
        parsers.integer(1, 100), "5", "maximum number of database connections of each instance and each worker"
    )
    database_pooler: str | None = _setting(
        parsers.choice("transaction"), None, "`transaction`: `DATABASE_URL` leads to PgBouncer in transaction mode"
    )
    database_connection_limit: int | None = _setting(
        parsers.integer(1, 1_000_000),
        None,
        "how many database connections all processes may open together, for warnings",
        shown_default="asked of PostgreSQL, unless `DATABASE_POOLER` is set",
    )
    instance_id: str | None = _setting(
        parsers.instance_id,
        None,
        "name of this instance; with several gunicorn workers, each appends `-wN`",
        shown_default="`hostname-pid-random8`",
    )
    host: str = _setting(
        parsers.host,
        lambda values: "0.0.0.0" if values["use_redis_sessions"] else "127.0.0.1",  # noqa: S104 - a fleet sits behind a proxy
        "address to listen on",
        shown_default="`0.0.0.0` in fleet mode, else `127.0.0.1`",
    )
    port: int = _setting(parsers.integer(1, 65535), "3000", "port to listen on")
    web_concurrency: int = _setting(
        parsers.integer(1, 64), "1", "number of gunicorn workers, each a separate instance; 1 in embedded mode"
    )
    worker_heartbeat_file: Path | None = _setting(
        parsers.file_to_write,
        None,
        "file that a job worker touches every 5 s while all its threads run, for liveness checks; instances ignore it",
    )
    socket_transports: tuple[str, ...] = _setting(
        lambda text: tuple(parsers.choice("polling", "websocket")(part.strip()) for part in text.split(",")),
        lambda values: "websocket" if (values["web_concurrency"] or 1) > 1 else "polling,websocket",
        "Socket.IO transports; only `websocket` where the load balancer can't route by Engine.IO session ID",
        shown_default="`polling,websocket`; `websocket` with several gunicorn workers",
    )
    max_sockets: int = _setting(parsers.integer(1, 100_000), "2000", "maximum number of sockets per instance")
    max_sockets_per_user: int = _setting(
        parsers.integer(1, 10_000),
        "20",
        "maximum number of sockets per user on one instance; up to the same number again if they replace drained ones",
    )
    session_ttl: int = _setting(parsers.integer(1, 31_536_000), "86400", "idle timeout of a session in seconds")
    session_max_age: int = _setting(parsers.integer(1, 31_536_000), "2592000", "maximum lifetime of a session in seconds")
    shutdown_timeout: int = _setting(parsers.integer(3, 3600), "30", "maximum time from SIGTERM to exit in seconds")
    drain_rate: int = _setting(parsers.integer(1, 100_000), "100", "sockets closed per second while an instance stops")
    rebalance: bool = _setting(
        parsers.boolean,
        "true",
        "whether an instance with many more sockets than the mean of all moves some to the others",
    )
    shutdown_delay: int = _setting(
        parsers.integer(0, 600),
        lambda values: "5" if values["app_env"] == "production" else "0",
        "how long a stopping instance serves requests after its readiness check fails, in seconds",
        shown_default="`5` in production, else `0`",
    )
    rate_limit_login: RateLimit = _setting(
        parsers.rate_limit,
        "10/15min",
        "failed logins per account, and ten times as many per client address, on all instances together",
    )
    rate_limit_register: RateLimit = _setting(
        parsers.rate_limit, "20/h", "registrations per client address, on all instances together"
    )
    trusted_proxies: int = _setting(
        parsers.integer(0, 10), "0", "number of reverse proxies whose `X-Forwarded-*` headers are trusted"
    )
    trusted_hosts: tuple[str, ...] = _setting(
        parsers.hosts,
        lambda values: "" if values["app_env"] == "production" else f"localhost,127.0.0.1,[::1],{values['host'] or ''}",
        "host names of the site, comma-separated; a request for another host is answered with 400",
        shown_default="any in production, else `localhost,127.0.0.1,[::1]` and `HOST`",
    )
    allowed_origins: tuple[str, ...] = _setting(
        parsers.origins,
        "",
        "other origins that may open sockets or send state-changing requests, comma-separated",
        shown_default="same origin",
    )
    public_url: str | None = _setting(
        parsers.public_url,
        None,
        "address of the site for its users, such as `https://radar.example.org`; links in mails, webhooks and feeds "
        "and links to shared reports begin with it",
    )
    smtp_url: str | None = _setting(
        parsers.smtp_url,
        None,
        "mail server, `smtp://` or `smtps://user:password@host:port`; requires `PUBLIC_URL`; without it, no mail is sent",
        secret=True,
    )
    mail_from: str | None = _setting(
        parsers.mail_from, None, "sender of mails", shown_default="`reporadar@` and the host of `PUBLIC_URL`"
    )
    webhook_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = _setting(
        parsers.networks, "", "private networks that webhooks may reach, comma-separated", shown_default="empty"
    )
    webhook_ca_file: str | None = _setting(
        parsers.readable_file,
        None,
        "CA certificate file that webhooks trust besides the system store",
        shown_default="system store",
    )
    plain_http: bool = _setting(
        parsers.boolean, "true", "`false` turns off the hand-written HTTP reader: gunicorn parses and writes everything"
    )
    shared_redis_connection: bool = _setting(
        parsers.boolean, "true", "`false` turns off the connection that all requests share: redis-py and its pool do everything"
    )
    log_format: str = _setting(parsers.choice("text", "json"), "text", "`text` or `json`; one line per record")
    log_level: str = _setting(parsers.choice("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "minimum severity that is logged")
    otel_exporter_otlp_endpoint: str | None = _setting(
        parsers.collector_url,
        None,
        "address of an OpenTelemetry collector for OTLP over HTTP, such as `http://127.0.0.1:4318`; turns on "
        "[traces](guides/traces.md), for which the other variables `OTEL_...` of that page are valid too",
        shown_default="no traces",
    )
    repository_roots: tuple[Path, ...] = _setting(
        parsers.folders, "", "colon-separated folders whose local repositories may be analysed", shown_default="empty"
    )
    repository_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = _setting(
        parsers.networks, "", "private networks from which repositories may be fetched, comma-separated", shown_default="empty"
    )
    repository_max_mb: int = _setting(parsers.integer(1, 1_000_000), "1024", "maximum size of one clone in megabytes")
    repository_timeout: int = _setting(parsers.integer(1, 86_400), "600", "timeout of one analysis in seconds")
    analytics_retention_days: int = _setting(parsers.integer(1, 36_500), "365", "how many days analytics events are stored")

    @property
    def is_production(self) -> bool:
        return self.app_env == "production"

    @property
    def fingerprint(self) -> str:
        """Return 12 hexadecimal characters that are equal on instances whose shared settings are equal."""
        names = [setting.name for setting in SETTINGS if not setting.metadata["secret"] and setting.name not in _PER_INSTANCE]
        shared = "\n".join(f"{name}={getattr(self, name)}" for name in names)
        return hashlib.sha256(shared.encode()).hexdigest()[:12]

    @property
    def data_folder(self) -> Path:
        """The folder of an embedded instance's database, secrets and lock file."""
        return _data_folder(self.database_url)


SETTINGS = dataclasses.fields(Config)

# Settings that may differ between instances of one fleet. Secrets are compared separately, by key ID.
_PER_INSTANCE = {
    "instance_id",
    "host",
    "port",
    "trusted_hosts",  # the default contains HOST
    "web_concurrency",
    "log_format",
    "log_level",
    "otel_exporter_otlp_endpoint",
    "redis_ca_file",
    "webhook_ca_file",
    "database_pool_size",
    "plain_http",
    "shared_redis_connection",
}


def load(environ: Mapping[str, str]) -> Config:
    """Build the configuration from environment variables. Raises ConfigError with all faults."""
    faults: list[str] = []
    values: Values = {}
    for setting in SETTINGS:
        try:
            values[setting.name] = _read(setting, environ, values)
        except ValueError as fault:
            faults.append(f"{setting.name.upper()}: {fault}")
            values[setting.name] = None
    faults += _combination_faults(values, {fault.split(":")[0] for fault in faults})
    faults += _disk_faults(values, environ)
    if not faults and not values["use_redis_sessions"]:
        faults += _load_embedded_secrets(values)
    if faults:
        raise ConfigError(faults)
    return Config(**values)


@functools.cache
def from_environment() -> Config:
    """Return the configuration of this process, cached. In development, `.env` supplies variables that the environment lacks."""
    environ = original_environment()
    fleet = environ.get("USE_REDIS_SESSIONS", "").strip().lower() in ("true", "1", "yes")
    production = (environ.get("APP_ENV", "").strip() or ("production" if fleet else "development")) == "production"
    file = {} if production else dotenv_values(PROJECT_ROOT / ".env")
    return load({**{name: value for name, value in file.items() if value is not None}, **environ})


def read_settings(names: Container[str]) -> Values:
    """Return some settings from the environment, for a command that needs no others. Raises ConfigError for faults of theirs."""
    values: Values = {}
    faults: list[str] = []
    for setting in SETTINGS:
        if setting.name in names:
            try:
                values[setting.name] = _read(setting, original_environment(), values)
            except ValueError as fault:
                faults.append(f"{setting.name.upper()}: {fault}")
    if faults:
        raise ConfigError(faults)
    return values


def original_environment() -> Mapping[str, str]:
    """Return the environment without what the `flask` command added from `.env`, which it reads in production too."""
    if "FLASK_RUN_FROM_CLI" not in os.environ:
        return os.environ
    try:
        pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return os.environ
    return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)


def from_environment_or_exit() -> Config:
    """Return the configuration; if it is invalid, write every fault to stderr and exit with EX_CONFIG."""
    try:
        return from_environment()
    except ConfigError as error:
        exit_with_faults(error.faults)


def exit_with_faults(faults: list[str]) -> NoReturn:
    lines = [f"RepoRadar does not start: {len(faults)} configuration error(s)", *(f"  {fault}" for fault in faults)]
    sys.stderr.write("\n".join(lines) + "\n")
    sys.exit(EX_CONFIG)


def reference() -> str:
    """Return the table of all settings as Markdown, for `docs/configuration.md`."""
    rows = ["| name | default | meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        default = setting.metadata["default"]
        shown = setting.metadata["shown_default"] or (f"`{default}`" if default else "–")
        secret = " (secret: `_FILE` accepted)" if setting.metadata["secret"] else ""
        rows.append(f"| `{setting.name.upper()}` | {shown} | {setting.metadata['help']}{secret} |")
    return "\n".join(rows)


def _read(setting: dataclasses.Field[Any], environ: Mapping[str, str], earlier: Values) -> Any:
    text = environ.get(setting.name.upper(), "").strip()
    if setting.metadata["secret"]:
        text = _from_file(setting.name.upper(), environ, text)
    if not text:
        default = setting.metadata["default"]
        if default is None:
            return None
        text = default(earlier) if callable(default) else default
        if not text and setting.metadata["secret"]:
            return None
    return setting.metadata["parse"](text)


def _from_file(name: str, environ: Mapping[str, str], text: str) -> str:
    path = environ.get(f"{name}_FILE", "").strip()
    if not path:
        return text
    if text:
        raise ValueError(f"is set twice, by {name} and {name}_FILE; remove one")
    try:
        content = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{name}_FILE names a file that can't be read") from None
    if not content:
        raise ValueError(f"{name}_FILE names an empty file")
    return content


def _combination_faults(values: Values, names_with_faults: set[str]) -> list[str]:
    """Return the faults of valid values that do not fit together: missing secrets, and settings that contradict each other."""
    faults = []
    fleet = values["use_redis_sessions"]
    if fleet:
        for name in ("redis_url", "session_encryption_key", "session_secret", "database_url"):
            if values[name] is None and name.upper() not in names_with_faults:
                faults.append(f"{name.upper()}: is required when USE_REDIS_SESSIONS is true")
        if (values["database_url"] or "").startswith("sqlite"):
            faults.append("DATABASE_URL: must be PostgreSQL when USE_REDIS_SESSIONS is true")
    elif fleet is False:
        if values["redis_url"] is not None:
            faults.append("REDIS_URL: is set while USE_REDIS_SESSIONS is not true")
        if (values["web_concurrency"] or 1) > 1:
            faults.append("WEB_CONCURRENCY: must be 1 unless USE_REDIS_SESSIONS is true")
    if (
        values["redis_sentinel_password"]
        and "+sentinel://" not in (values["redis_url"] or "")
        and "REDIS_URL" not in names_with_faults
    ):
        faults.append("REDIS_SENTINEL_PASSWORD: is set while REDIS_URL does not name sentinels")
    if (values["web_concurrency"] or 1) > 1 and "polling" in (values["socket_transports"] or ()):
        faults.append("SOCKET_TRANSPORTS: must be websocket when WEB_CONCURRENCY is above 1: polling needs one worker per port")
    if values["database_pooler"] and (values["database_url"] or "").startswith("sqlite"):
        faults.append("DATABASE_POOLER: requires PostgreSQL in DATABASE_URL")
    if values["smtp_url"] is not None and values["public_url"] is None and "PUBLIC_URL" not in names_with_faults:
        faults.append("PUBLIC_URL: is required when SMTP_URL is set, because mails contain links")
    delay, timeout = values["shutdown_delay"], values["shutdown_timeout"]
    if delay is not None and timeout is not None and delay > timeout - 2:
        faults.append("SHUTDOWN_DELAY: must be at least 2 seconds less than SHUTDOWN_TIMEOUT")
    return faults


def _disk_faults(values: Values, environ: Mapping[str, str]) -> list[str]:
    """Reject embedded mode on an ephemeral disk, where a restart would delete accounts and secrets."""
    platforms = [f"{platform} ({variable} is set)" for variable, platform in EPHEMERAL_DISKS.items() if environ.get(variable)]
    embedded = values["use_redis_sessions"] is False and values["database_url"] is not None
    if not platforms or not embedded or _data_folder(values["database_url"]) != PROJECT_ROOT / "instance":
        return []
    return [
        f"USE_REDIS_SESSIONS: must be true on {platforms[0]}, where each restart deletes all files; "
        "or use a SQLite file on a volume, such as DATABASE_URL=sqlite:////volume/reporadar.db"
    ]


def _load_embedded_secrets(values: Values) -> list[str]:
    """Embedded mode generates its secrets at the first start and stores them next to the database. Returns faults."""
    folder, faults = _data_folder(values["database_url"]), []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return [f"DATABASE_URL: its folder can't be created ({error.strerror})"]
    for name, parse in (("session_encryption_key", parsers.encryption_keys), ("session_secret", parsers.signing_secrets)):
        if values[name] is None:
            try:
                values[name] = parse(_load_or_create_secret(folder / name))
            except OSError as error:
                faults.append(f"{name.upper()}: its file next to the database can't be written or read ({error.strerror})")
            except ValueError as error:
                faults.append(f"{name.upper()}: the value in the file next to the database {error}")
    return faults


def _load_or_create_secret(path: Path) -> str:
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".secret-") as scratch:  # mode 600
            scratch.write(secrets.token_hex(32))
            scratch.flush()
            with contextlib.suppress(FileExistsError):  # another process was faster: use its secret
                os.link(scratch.name, path)
    return path.read_text(encoding="ascii").strip()


def _data_folder(database_url: str) -> Path:
    scheme, _, path = database_url.partition(":///")
    return Path(path).parent if scheme == "sqlite" else PROJECT_ROOT / "instance"
