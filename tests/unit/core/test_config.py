from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from app.core import config
from app.core.config import EPHEMERAL_DISKS, EX_CONFIG, SETTINGS, Config, ConfigError, load
from app.core.config_parsers import RateLimit
from harness.servers import ROOT

# The names in the public contract.
CONTRACT_NAMES = [
    "USE_REDIS_SESSIONS",
    "REDIS_URL",
    "REDIS_SENTINEL_PASSWORD",
    "REDIS_CA_FILE",
    "REDIS_TLS_VERIFY",
    "SESSION_ENCRYPTION_KEY",
    "SESSION_SECRET",
    "DATABASE_URL",
    "DATABASE_POOL_SIZE",
    "DATABASE_POOLER",
    "DATABASE_CONNECTION_LIMIT",
    "INSTANCE_ID",
    "HOST",
    "PORT",
    "WEB_CONCURRENCY",
    "WORKER_HEARTBEAT_FILE",
    "SOCKET_TRANSPORTS",
    "MAX_SOCKETS",
    "MAX_SOCKETS_PER_USER",
    "APP_ENV",
    "SESSION_TTL",
    "SESSION_MAX_AGE",
    "SHUTDOWN_TIMEOUT",
    "DRAIN_RATE",
    "SHUTDOWN_DELAY",
    "REBALANCE",
    "RATE_LIMIT_LOGIN",
    "RATE_LIMIT_REGISTER",
    "TRUSTED_PROXIES",
    "TRUSTED_HOSTS",
    "ALLOWED_ORIGINS",
    "PUBLIC_URL",
    "SMTP_URL",
    "MAIL_FROM",
    "WEBHOOK_ALLOWED_NETWORKS",
    "WEBHOOK_CA_FILE",
    "PLAIN_HTTP",
    "SHARED_REDIS_CONNECTION",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "REPOSITORY_ROOTS",
    "REPOSITORY_ALLOWED_NETWORKS",
    "REPOSITORY_MAX_MB",
    "REPOSITORY_TIMEOUT",
    "ANALYTICS_RETENTION_DAYS",
]
REQUIRED_NAMES = ["REDIS_URL", "SESSION_ENCRYPTION_KEY", "SESSION_SECRET", "DATABASE_URL"]
SECRET_NAMES = ["REDIS_URL", "REDIS_SENTINEL_PASSWORD", *REQUIRED_NAMES[1:], "SMTP_URL"]

KEY = "9f" * 8 + "1c4e07d2ab5830f6" * 3
SECRET = "k3vJ8sQ2xZ7mN4bT9wL6yH1rD5gF0pCa"
FLEET = {
    "USE_REDIS_SESSIONS": "true",
    "REDIS_URL": "redis://:redispass@127.0.0.1:6379/0",
    "SESSION_ENCRYPTION_KEY": KEY,
    "SESSION_SECRET": SECRET,
    "DATABASE_URL": "postgresql://reporadar:dbpass@127.0.0.1/reporadar",
}

MARK = "zq4711"
FAULTY = {
    "USE_REDIS_SESSIONS": MARK,
    "APP_ENV": MARK,
    "REDIS_URL": f"http://{MARK}@host",
    "REDIS_SENTINEL_PASSWORD": f"your-{MARK}",
    "REDIS_CA_FILE": f"/nowhere/{MARK}",
    "REDIS_TLS_VERIFY": MARK,
    "SESSION_ENCRYPTION_KEY": MARK,
    "SESSION_SECRET": MARK,
    "DATABASE_URL": f"mysql://{MARK}@host/name",
    "DATABASE_POOL_SIZE": MARK,
    "DATABASE_POOLER": MARK,
    "DATABASE_CONNECTION_LIMIT": MARK,
    "INSTANCE_ID": f"{MARK}!",
    "HOST": f"{MARK}/24",
    "PORT": MARK,
    "WEB_CONCURRENCY": MARK,
    "WORKER_HEARTBEAT_FILE": MARK,
    "SOCKET_TRANSPORTS": f"polling,{MARK}",
    "MAX_SOCKETS": MARK,
    "MAX_SOCKETS_PER_USER": MARK,
    "SESSION_TTL": MARK,
    "SESSION_MAX_AGE": MARK,
    "SHUTDOWN_TIMEOUT": MARK,
    "DRAIN_RATE": MARK,
    "SHUTDOWN_DELAY": MARK,
    "RATE_LIMIT_LOGIN": MARK,
    "RATE_LIMIT_REGISTER": MARK,
    "TRUSTED_PROXIES": MARK,
    "TRUSTED_HOSTS": f"{MARK}/x",
    "ALLOWED_ORIGINS": MARK,
    "PUBLIC_URL": f"https://example.org/{MARK}",
    "SMTP_URL": f"http://{MARK}",
    "MAIL_FROM": MARK,
    "WEBHOOK_ALLOWED_NETWORKS": MARK,
    "WEBHOOK_CA_FILE": MARK,
    "REBALANCE": MARK,
    "PLAIN_HTTP": MARK,
    "SHARED_REDIS_CONNECTION": MARK,
    "LOG_FORMAT": MARK,
    "LOG_LEVEL": MARK,
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"grpc://{MARK}:4317",
    "REPOSITORY_ROOTS": MARK,
    "REPOSITORY_ALLOWED_NETWORKS": MARK,
    "REPOSITORY_MAX_MB": MARK,
    "REPOSITORY_TIMEOUT": MARK,
    "ANALYTICS_RETENTION_DAYS": MARK,
}


def faults(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(environ)
    assert str(raised.value) == "; ".join(raised.value.faults)
    return raised.value.faults


def names(found: list[str]) -> list[str]:
    return [fault.partition(":")[0] for fault in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def embedded(folder: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{folder}/reporadar.db"}


@pytest.fixture
def process_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process without settings, in a project without `.env`."""
    for name in CONTRACT_NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(config, "from_environment", config.from_environment.__wrapped__)
    return monkeypatch


# The list of settings.


def test_settings_are_exactly_the_names_of_the_contract() -> None:
    assert sorted(setting.name.upper() for setting in SETTINGS) == sorted(CONTRACT_NAMES)


def test_exactly_the_secrets_are_marked_as_secret() -> None:
    assert sorted(setting.name.upper() for setting in SETTINGS if setting.metadata["secret"]) == sorted(SECRET_NAMES)


def test_documentation_contains_the_current_table() -> None:
    path = ROOT / "docs" / "configuration.md"
    assert path.is_file(), "docs/configuration.md is missing; it has to contain the output of app.core.config.reference()"
    assert config.reference() in path.read_text(encoding="utf-8"), (
        "docs/configuration.md is out of date: replace its table by the output of\n"
        "  .venv/bin/python -c 'from app.core import config; print(config.reference())'"
    )


def test_reference_has_a_row_for_each_setting_and_marks_secrets() -> None:
    header, _, *rows = config.reference().splitlines()
    assert header == "| name | default | meaning |"
    assert [row.split("|")[1].strip(" `") for row in rows] == [setting.name.upper() for setting in SETTINGS]
    assert [row.split("|")[1].strip(" `") for row in rows if "`_FILE` accepted" in row] == SECRET_NAMES


# Defaults.


def test_defaults_of_embedded_mode(embedded: dict[str, str], folder: Path) -> None:
    loaded = load(embedded)
    assert not loaded.use_redis_sessions
    assert (loaded.app_env, loaded.is_production, loaded.host, loaded.port) == ("development", False, "127.0.0.1", 3000)
    assert (loaded.shutdown_timeout, loaded.shutdown_delay) == (30, 0)
    assert loaded.redis_url is None
    assert loaded.data_folder == folder


def test_defaults_of_fleet_mode() -> None:
    loaded = load(FLEET)
    assert loaded.use_redis_sessions
    assert (loaded.app_env, loaded.is_production, loaded.port) == ("production", True, 3000)
    assert loaded.host == "0.0.0.0"  # noqa: S104
    assert (loaded.shutdown_timeout, loaded.shutdown_delay) == (30, 5)
    assert loaded.redis_url == FLEET["REDIS_URL"]
    assert (loaded.redis_ca_file, loaded.redis_tls_verify) == (None, True)


def test_defaults_of_both_modes(embedded: dict[str, str]) -> None:
    for environ in (embedded, FLEET):
        loaded = load(environ)
        assert loaded.instance_id is None
        assert (loaded.database_pool_size, loaded.web_concurrency, loaded.trusted_proxies) == (5, 1, 0)
        assert (loaded.session_ttl, loaded.session_max_age) == (86_400, 2_592_000)
        assert (loaded.rate_limit_login, loaded.rate_limit_register) == (RateLimit(10, 900), RateLimit(20, 3600))
        assert (loaded.max_sockets, loaded.max_sockets_per_user, loaded.drain_rate) == (2000, 20, 100)
        assert loaded.socket_transports == ("polling", "websocket")
        assert (loaded.log_format, loaded.log_level) == ("text", "INFO")
        assert (loaded.allowed_origins, loaded.repository_roots, loaded.repository_allowed_networks) == ((), (), ())
        assert (loaded.repository_max_mb, loaded.repository_timeout, loaded.analytics_retention_days) == (1024, 600, 365)


def test_embedded_database_is_in_the_project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    loaded = load({})
    assert loaded.database_url == f"sqlite:///{tmp_path}/instance/reporadar.db"
    assert loaded.data_folder == tmp_path / "instance"


def test_empty_value_counts_as_unset() -> None:
    assert load({**FLEET, "PORT": "", "LOG_LEVEL": "  "}) == load(FLEET)


def test_postgres_scheme_is_accepted_as_postgresql() -> None:
    assert load({**FLEET, "DATABASE_URL": "postgres://u:p@h:5432/d"}).database_url == "postgresql+psycopg2://u:p@h:5432/d"
    assert load({**FLEET, "DATABASE_URL": "postgresql://u:p@h:5432/d"}).database_url == "postgresql+psycopg2://u:p@h:5432/d"


# Faults.


def test_each_setting_has_a_faulty_example() -> None:
    assert set(FAULTY) == set(CONTRACT_NAMES)


@pytest.mark.parametrize("name", FAULTY)
def test_fault_contains_the_name_but_not_the_value(name: str) -> None:
    found = faults({**FLEET, name: FAULTY[name]})
    assert names(found) == [name]
    assert MARK not in "".join(found)


def test_all_faults_are_reported_at_once() -> None:
    found = faults(FAULTY)
    assert sorted(names(found)) == sorted(FAULTY)
    assert MARK not in "".join(found)


def test_fleet_mode_reports_each_missing_setting() -> None:
    found = faults({"USE_REDIS_SESSIONS": "true"})
    assert sorted(names(found)) == sorted(REQUIRED_NAMES)
    assert all(fault.endswith("is required when USE_REDIS_SESSIONS is true") for fault in found)


@pytest.mark.parametrize("name", REQUIRED_NAMES)
def test_fleet_mode_reports_a_single_missing_setting(name: str) -> None:
    assert names(faults({**FLEET, name: ""})) == [name]


def test_fleet_mode_rejects_sqlite() -> None:
    assert names(faults({**FLEET, "DATABASE_URL": "sqlite:////tmp/reporadar.db"})) == ["DATABASE_URL"]


def test_pooler_requires_postgresql(embedded: dict[str, str]) -> None:
    assert names(faults({**embedded, "DATABASE_POOLER": "transaction"})) == ["DATABASE_POOLER"]
    assert load({**FLEET, "DATABASE_POOLER": "transaction"}).database_pooler == "transaction"


def test_redis_url_without_fleet_mode_is_rejected(embedded: dict[str, str]) -> None:
    for unset in ({}, {"USE_REDIS_SESSIONS": "false"}):
        found = faults({**embedded, **unset, "REDIS_URL": f"redis://:{MARK}@127.0.0.1"})
        assert names(found) == ["REDIS_URL"]
        assert MARK not in found[0]


def test_password_of_sentinels_requires_sentinels() -> None:
    password = {"REDIS_SENTINEL_PASSWORD": MARK}
    found = faults({**FLEET, **password})
    assert names(found) == ["REDIS_SENTINEL_PASSWORD"]
    assert MARK not in found[0]
    loaded = load({**FLEET, **password, "REDIS_URL": "redis+sentinel://127.0.0.1:26379/main"})
    assert loaded.redis_sentinel_password == MARK


def test_mail_requires_the_address_of_the_site() -> None:
    assert names(faults({**FLEET, "SMTP_URL": "smtp://mail.example.org"})) == ["PUBLIC_URL"]
    loaded = load({**FLEET, "SMTP_URL": "smtp://mail.example.org", "PUBLIC_URL": "https://Radar.example.org/"})
    assert (loaded.public_url, loaded.mail_from) == ("https://radar.example.org", None)


def test_embedded_mode_allows_one_worker(embedded: dict[str, str]) -> None:
    assert names(faults({**embedded, "WEB_CONCURRENCY": "2"})) == ["WEB_CONCURRENCY"]
    assert load({**FLEET, "WEB_CONCURRENCY": "2"}).web_concurrency == 2


def test_several_workers_allow_only_websocket_transport() -> None:
    assert load({**FLEET, "WEB_CONCURRENCY": "2"}).socket_transports == ("websocket",)
    assert load({**FLEET, "WEB_CONCURRENCY": "2", "SOCKET_TRANSPORTS": "websocket"}).socket_transports == ("websocket",)
    for polling in ("polling", "polling,websocket"):
        assert names(faults({**FLEET, "WEB_CONCURRENCY": "2", "SOCKET_TRANSPORTS": polling})) == ["SOCKET_TRANSPORTS"]


@pytest.mark.parametrize("variable", EPHEMERAL_DISKS)
@pytest.mark.parametrize("database", [{}, {"DATABASE_URL": FLEET["DATABASE_URL"]}], ids=["default", "PostgreSQL"])
def test_embedded_mode_is_rejected_on_ephemeral_disks(variable: str, database: dict[str, str]) -> None:
    found = faults({**database, variable: "web.1"})
    assert names(found) == ["USE_REDIS_SESSIONS"]
    assert variable in found[0]
    assert "web.1" not in found[0]
    assert load({**FLEET, variable: "web.1"}).use_redis_sessions


@pytest.mark.parametrize("variable", EPHEMERAL_DISKS)
def test_embedded_mode_is_accepted_with_a_database_on_a_volume(embedded: dict[str, str], variable: str) -> None:
    assert not load({**embedded, variable: "web.1"}).use_redis_sessions


def test_shutdown_delay_must_leave_time_to_stop() -> None:
    assert names(faults({**FLEET, "SHUTDOWN_DELAY": "9", "SHUTDOWN_TIMEOUT": "10"})) == ["SHUTDOWN_DELAY"]
    assert load({**FLEET, "SHUTDOWN_DELAY": "8", "SHUTDOWN_TIMEOUT": "10"}).shutdown_delay == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # From the scaling guide.
        ("SESSION_ENCRYPTION_KEY", "your-secret-key-here"),
        ("SESSION_SECRET", "your-session-secret-here"),
        ("DATABASE_URL", "postgresql://user:password@localhost:5432/reporadar"),
        # From common examples.
        ("SESSION_SECRET", "change-me-change-me-change-me-change-me"),
        ("SESSION_SECRET", "replace_with_a_long_random_string_please"),
        ("SESSION_SECRET", "<at least thirty-two characters of noise>"),
        ("SESSION_SECRET", "${SESSION_SECRET_OF_THE_WHOLE_DEPLOYMENT}"),
        ("SESSION_SECRET", "a" * 40),
        ("SESSION_ENCRYPTION_KEY", "0" * 64),
        ("SESSION_ENCRYPTION_KEY", "deadbeef" * 8),
        ("SESSION_ENCRYPTION_KEY", "0123456789abcdef" * 4),
        ("SESSION_ENCRYPTION_KEY", f"{KEY},{'f' * 64}"),
        ("REDIS_URL", "redis://:your-redis-password@127.0.0.1"),
        ("REDIS_URL", "redis://:changeme@127.0.0.1"),
        ("REDIS_URL", "redis+cluster://:changeme@127.0.0.1:6379"),
    ],
)
def test_placeholders_are_rejected(name: str, value: str) -> None:
    found = faults({**FLEET, name: value})
    assert names(found) == [name]
    assert "placeholder" in found[0]
    assert value not in found[0]


@pytest.mark.parametrize("separator", [",", ", "])
def test_list_of_keys_is_accepted(separator: str) -> None:
    other_key, other_secret = "0a1b2c3d4e5f6071" * 4, SECRET[::-1]
    rotating = {
        "SESSION_ENCRYPTION_KEY": separator.join([other_key, KEY]),
        "SESSION_SECRET": separator.join([other_secret, SECRET]),
    }
    loaded = load({**FLEET, **rotating})
    assert loaded.session_encryption_key == (bytes.fromhex(other_key), bytes.fromhex(KEY))
    assert loaded.session_secret == (other_secret, SECRET)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SESSION_ENCRYPTION_KEY", f"{KEY},{KEY.upper()}"),
        ("SESSION_SECRET", f"{SECRET},{SECRET}"),
        ("SESSION_ENCRYPTION_KEY", f"{KEY},"),
        ("SESSION_SECRET", f"{SECRET},"),
    ],
    ids=["key twice", "secret twice", "key and nothing", "secret and nothing"],
)
def test_invalid_list_of_keys_is_rejected(name: str, value: str) -> None:
    found = faults({**FLEET, name: value})
    assert names(found) == [name]
    assert KEY not in found[0]
    assert SECRET not in found[0]


# Secrets in files.

WITH_ALL_SECRETS = {
    **FLEET,
    "REDIS_URL": "redis+sentinel://:redispass@127.0.0.1:26379/main",
    "REDIS_SENTINEL_PASSWORD": "sentinelpass",
    "SMTP_URL": "smtps://radar:mailpass@mail.example.org",
    "PUBLIC_URL": "https://radar.example.org",
}


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_each_secret_can_be_read_from_a_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(WITH_ALL_SECRETS[name] + "\n")
    assert load({**WITH_ALL_SECRETS, name: "", f"{name}_FILE": str(file)}) == load(WITH_ALL_SECRETS)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secret_given_by_value_and_file_is_rejected(name: str, tmp_path: Path) -> None:
    file = tmp_path / MARK
    file.write_text(WITH_ALL_SECRETS[name])
    found = faults({**WITH_ALL_SECRETS, f"{name}_FILE": str(file)})
    assert names(found) == [name]
    assert WITH_ALL_SECRETS[name] not in found[0]
    assert MARK not in found[0]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_unreadable_secret_file_is_reported_by_setting(name: str, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / MARK, tmp_path, tmp_path / "binary"):
        found = faults({**FLEET, name: "", f"{name}_FILE": str(path)})
        assert names(found) == [name]
        assert f"{name}_FILE" in found[0]
        assert str(path) not in found[0]


def test_only_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("4000")
    assert load({**FLEET, "PORT_FILE": str(tmp_path / "port")}).port == 3000


def test_empty_secret_file_is_rejected(embedded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    (tmp_path / "empty").write_text("\n")
    assert names(faults({"DATABASE_URL_FILE": str(tmp_path / "empty")})) == ["DATABASE_URL"]


# Secrets of embedded mode.


def test_embedded_secrets_are_generated_once(embedded: dict[str, str]) -> None:
    first, second = load(embedded), load(embedded)
    assert first == second
    assert [len(key) for key in first.session_encryption_key] == [32]
    assert [len(secret) for secret in first.session_secret] == [64]
    assert first.session_encryption_key[0].hex() != first.session_secret[0]


def test_embedded_secrets_differ_between_installations(tmp_path: Path) -> None:
    one, two = (load({"DATABASE_URL": f"sqlite:///{tmp_path}/{name}/reporadar.db"}) for name in ("one", "two"))
    assert one.session_encryption_key != two.session_encryption_key
    assert one.session_secret != two.session_secret


def test_embedded_secret_files_are_readable_only_by_the_owner(embedded: dict[str, str], folder: Path) -> None:
    load(embedded)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"session_encryption_key": 0o600, "session_secret": 0o600}


def test_configured_secrets_are_not_written_to_files(embedded: dict[str, str], folder: Path) -> None:
    loaded = load({**embedded, "SESSION_ENCRYPTION_KEY": KEY, "SESSION_SECRET": SECRET})
    assert loaded.session_secret == (SECRET,)
    assert list(folder.iterdir()) == []


def test_faulty_configuration_creates_no_files(embedded: dict[str, str], folder: Path) -> None:
    faults({**embedded, "PORT": "no"})
    assert not folder.exists()


def test_damaged_secret_file_is_reported(embedded: dict[str, str], folder: Path) -> None:
    load(embedded)
    (folder / "session_secret").write_text("")
    assert names(faults(embedded)) == ["SESSION_SECRET"]


def test_data_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert names(faults({"DATABASE_URL": f"sqlite:///{tmp_path}/file/reporadar.db"})) == ["DATABASE_URL"]


def test_report_does_not_contain_the_path_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / MARK).touch()
    assert MARK not in "".join(faults({"DATABASE_URL": f"sqlite:///{tmp_path}/{MARK}/reporadar.db"}))


# Representation.


def test_repr_contains_no_secrets() -> None:
    shown = repr(load(FLEET))
    assert "port=3000" in shown
    for secret in (KEY, bytes.fromhex(KEY), SECRET, "redispass", "dbpass"):
        assert str(secret) not in shown


def test_configuration_is_immutable() -> None:
    with pytest.raises(AttributeError):
        load(FLEET).port = 4000  # type: ignore[misc]


# The process.


def test_process_with_faults_reports_them_and_exits_with_ex_config(
    process_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process_environment.setenv("USE_REDIS_SESSIONS", "true")
    process_environment.setenv("SESSION_SECRET", MARK)
    with pytest.raises(SystemExit) as exited:
        config.from_environment_or_exit()
    assert exited.value.code == EX_CONFIG == 78
    told = capsys.readouterr().err
    assert re.findall(r"^  ([A-Z_]+): ", told, re.MULTILINE) == [
        "SESSION_SECRET",
        "REDIS_URL",
        "SESSION_ENCRYPTION_KEY",
        "DATABASE_URL",
    ]
    assert MARK not in told


def test_env_file_supplies_only_missing_variables_in_development(process_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=4000\nLOG_LEVEL=DEBUG\n")
    process_environment.setenv("LOG_LEVEL", "ERROR")
    loaded = config.from_environment()
    assert (loaded.port, loaded.log_level) == (4000, "ERROR")


@pytest.mark.parametrize("environ", [{"APP_ENV": "production"}, FLEET], ids=["production", "fleet"])
def test_env_file_is_ignored_in_production(
    process_environment: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / ".env").write_text("PORT=4000\n")
    for name, value in environ.items():
        process_environment.setenv(name, value)
    loaded: Config = config.from_environment()
    assert loaded.port == 3000
