from __future__ import annotations

import pytest

from app.core import config
from app.operations.doctor import configuration
from harness.servers import fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL


@pytest.mark.parametrize(
    ("url", "more", "expected"),
    [
        ("redis://127.0.0.1:6379/0", {}, ["ok", "ok", "ok"]),
        ("unix:///run/redis.sock", {}, ["ok", "ok", "ok"]),
        ("redis://redis.example.org", {}, ["ok", "warn", "warn"]),
        ("redis://:secret-of-redis@redis.example.org", {}, ["ok", "ok", "warn"]),
        ("rediss://:secret-of-redis@redis.example.org", {}, ["ok", "ok", "ok"]),
        ("rediss+cluster://:secret-of-redis/[@redis.example.org:7000", {}, ["ok", "ok", "ok"]),
        ("redis+sentinel://:secret-of-redis@one.example.org:26379/primary", {}, ["ok", "ok", "warn"]),
        ("rediss://:secret-of-redis@redis.example.org", {"REDIS_TLS_VERIFY": "false"}, ["ok", "ok", "warn"]),
    ],
)
def test_insecure_access_to_redis_warns(url: str, more: dict[str, str], expected: list[str]) -> None:
    findings = list(configuration.examine(config.load(fleet_environment(url, UNUSED_DATABASE_URL, **more))))
    assert [finding.status for finding in findings] == expected
    assert "secret-of-redis" not in "".join(map(str, findings))


@pytest.mark.parametrize(
    ("settings", "is_warned"),
    [
        ({"APP_ENV": "production"}, True),
        ({"APP_ENV": "production", "TRUSTED_HOSTS": "app.example"}, False),
        ({"APP_ENV": "development"}, False),  # which serves only the names of this machine by default
    ],
)
def test_production_without_trusted_hosts_warns(settings: dict[str, str], is_warned: bool) -> None:
    loaded = config.load(fleet_environment("redis://127.0.0.1", UNUSED_DATABASE_URL, **settings))
    found = [finding.text for finding in configuration.examine(loaded) if finding.status == "warn"]
    assert found == ["configuration: requests for any host name are served (TRUSTED_HOSTS is not set)"] * is_warned


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"PUBLIC_URL": "https://app.example"}, []),
        ({"PUBLIC_URL": "https://APP.example:8443"}, []),
        ({"PUBLIC_URL": "https://other.example"}, ["configuration: requests for the host of PUBLIC_URL are refused"]),
        ({"PUBLIC_URL": "http://app.example"}, ["configuration: PUBLIC_URL begins with http"]),
        ({"PUBLIC_URL": "http://app.example", "APP_ENV": "development"}, []),
    ],
)
def test_links_that_nobody_can_use_warn(settings: dict[str, str], expected: list[str]) -> None:
    environment = fleet_environment("redis://127.0.0.1", UNUSED_DATABASE_URL, TRUSTED_HOSTS="app.example", APP_ENV="production")
    found = configuration.examine(config.load({**environment, **settings}))
    assert [finding.text for finding in found if finding.status == "warn"] == expected
