"""The fleet's settings: ports, generated secrets and the environment of its processes."""

import json
import os
import secrets
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.core import config
from deploy.fleet.executables import SEARCH_PATH, FleetError

# Below the kernel's range of ephemeral ports, so that no outgoing connection takes the port of a server that is down.
REDIS_PORTS, POSTGRES_PORTS = range(20_000, 26_000), range(26_000, 32_000)
# Defaults of the instances that differ from the application's.
DEFAULTS = {"SHUTDOWN_DELAY": "2"}
# Ignored, because the fleet sets REDIS_URL and DATABASE_URL itself.
IGNORED = {"REDIS_URL_FILE", "DATABASE_URL_FILE"}
KEYS = ("SESSION_ENCRYPTION_KEY", "SESSION_SECRET")


@dataclass(frozen=True)
class Ports:
    fleet: int
    instances: list[int]
    redis: int
    postgres: int

    def names(self) -> dict[str, int]:
        return {"nginx": self.fleet} | {f"instance-{number}": port for number, port in enumerate(self.instances, 1)}


def read_ports(environ: Mapping[str, str]) -> Ports:
    """Raise FleetError if a port is invalid or in use."""
    fleet, first = _number(environ, "FLEET_PORT", 8080), _number(environ, "PORT", 3001)
    count = _number(environ, "INSTANCES", 3, most=64)
    ports = Ports(fleet, list(range(first, first + count)), _free_port(REDIS_PORTS), _free_port(POSTGRES_PORTS))
    if fleet in ports.instances:
        raise FleetError(f"FLEET_PORT {fleet} is one of the instances' ports, {first} to {first + count - 1}. Set another one.")
    used = [f"{port} ({name})" for name, port in ports.names().items() if not _is_free(port)]
    if used:
        raise FleetError(f"Already in use: port {', '.join(used)}. Choose other ports: FLEET_PORT=… PORT=… make fleet")
    return ports


def _number(environ: Mapping[str, str], name: str, default: int, most: int = 65_535) -> int:
    text = environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise FleetError(f"{name} is {text!r}: it must be a number from 1 to {most}.")
    return int(text)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: ignores connections in TIME_WAIT
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True


def _free_port(candidates: range) -> int:
    while True:
        port = secrets.choice(candidates)
        if _is_free(port):
            return port


def load_or_create_secrets(file: Path) -> dict[str, str]:
    """The first start creates the secrets; later starts need the same ones to read the data."""
    if not file.exists():
        created = {name: secrets.token_hex(32) for name in (*KEYS, "REDIS_PASSWORD", "POSTGRES_PASSWORD")}
        write_private(file, json.dumps(created, indent=1) + "\n")
    stored: dict[str, str] = json.loads(file.read_text())
    return stored


def write_private(file: Path, text: str) -> None:
    """Replace the file atomically. Only the owner can read it at any time."""
    scratch = file.with_name(f".{file.name}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    scratch.replace(file)


def shared_environment(environ: Mapping[str, str], ports: Ports, stored: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the instances and the worker: those of the environment, except for what the fleet sets itself."""
    known = {setting.name.upper() for setting in config.SETTINGS} - {"PORT", "INSTANCE_ID"}
    known |= {f"{setting.name.upper()}_FILE" for setting in config.SETTINGS if setting.metadata["secret"]} - IGNORED
    given = {name: environ[name] for name in sorted(known & environ.keys()) if environ[name].strip()}
    keys = {name: stored[name] for name in KEYS if f"{name}_FILE" not in given}
    own = {
        "USE_REDIS_SESSIONS": "true",
        "APP_ENV": "development",  # plain http
        "HOST": "127.0.0.1",
        "TRUSTED_PROXIES": "1",
        "REDIS_URL": f"redis://default:{stored['REDIS_PASSWORD']}@127.0.0.1:{ports.redis}/0",
        "DATABASE_URL": f"postgresql://reporadar:{stored['POSTGRES_PASSWORD']}@127.0.0.1:{ports.postgres}/reporadar",
    }
    return DEFAULTS | {"PUBLIC_URL": f"http://127.0.0.1:{ports.fleet}"} | keys | given | own


def check(settings: Mapping[str, str]) -> config.Config:
    try:
        return config.load(settings)
    except config.ConfigError as error:
        raise FleetError("\n".join(["The configuration is invalid:", *error.faults]), config.EX_CONFIG) from None


def process_environment(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process, without the variables of `make`."""
    without = IGNORED | {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    return {name: value for name, value in environ.items() if name not in without} | {"PATH": SEARCH_PATH} | dict(settings)


def format_env_file(settings: Mapping[str, str]) -> str:
    """Return NAME=value lines that a shell (`set -a; . FILE`) and line-based programs can read."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
