"""The settings of `make fleet`."""

from __future__ import annotations

import secrets
import socket
import stat
from pathlib import Path

import pytest

from deploy.fleet import settings
from deploy.fleet.executables import FleetError
from deploy.fleet.settings import Ports
from harness.processes import free_port

PORTS = Ports(8080, [3001, 3002], 20_001, 26_001)


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, str]:
    return settings.load_or_create_secrets(tmp_path / "secrets.json")


def test_secrets_are_created_once_and_private(tmp_path: Path, stored: dict[str, str]) -> None:
    file = tmp_path / "secrets.json"
    assert settings.load_or_create_secrets(file) == stored
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(set(stored.values())) == len(stored) == 4


def test_fleet_overrides_the_settings_that_define_it(stored: dict[str, str]) -> None:
    foreign = {"REDIS_URL": "redis://elsewhere", "DATABASE_URL_FILE": "/elsewhere", "HOST": "192.0.2.1", "APP_ENV": "production"}
    foreign |= {"TRUSTED_PROXIES": "0", "USE_REDIS_SESSIONS": "false", "PORT": "1", "INSTANCE_ID": "x", "HOME": "/home"}
    shared = settings.shared_environment(foreign, PORTS, stored)
    assert shared == settings.shared_environment({}, PORTS, stored)
    config = settings.check(shared)
    assert (config.host, config.trusted_proxies, config.is_production, config.shutdown_delay) == ("127.0.0.1", 1, False, 2)
    assert config.public_url == "http://127.0.0.1:8080"
    process = settings.process_environment(foreign, shared)
    assert "DATABASE_URL_FILE" not in process
    assert process["HOME"] == "/home"


def test_other_settings_come_from_the_environment(tmp_path: Path, stored: dict[str, str]) -> None:
    (tmp_path / "secret").write_text(secret := secrets.token_hex(32))
    rotated = f"{secrets.token_hex(32)},{stored['SESSION_ENCRYPTION_KEY']}"
    given = {
        "SHUTDOWN_DELAY": "7",
        "PUBLIC_URL": "https://radar.example.org",
        "SESSION_ENCRYPTION_KEY": rotated,
        "SESSION_SECRET_FILE": f"{tmp_path}/secret",
        "LOG_LEVEL": " ",
    }
    shared = settings.shared_environment(given, PORTS, stored)
    config = settings.check(shared)
    assert (config.shutdown_delay, len(config.session_encryption_key), config.session_secret) == (7, 2, (secret,))
    assert config.public_url == "https://radar.example.org"
    assert "LOG_LEVEL" not in shared


@pytest.mark.parametrize("environ", [{"INSTANCES": "0"}, {"PORT": "x"}, {"FLEET_PORT": "65536"}, {"INSTANCES": "-1"}])
def test_invalid_number_is_rejected_with_its_name(environ: dict[str, str]) -> None:
    (name,) = environ
    with pytest.raises(FleetError, match=f"{name} is .*must be a number"):
        settings.read_ports(environ)


def test_fleet_port_must_differ_from_the_instances_ports() -> None:
    with pytest.raises(FleetError, match="FLEET_PORT 3002 is one of"):
        settings.read_ports({"FLEET_PORT": "3002", "PORT": "3001"})


def test_port_in_use_is_reported_with_its_service() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(FleetError, match=rf"port {port} \(instance-1\)"):
        settings.read_ports({"FLEET_PORT": str(free_port()), "PORT": str(port), "INSTANCES": "1"})
