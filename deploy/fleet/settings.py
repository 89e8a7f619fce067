"""What the environment says about the fleet, what is made once and kept, and what the instances are told."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.core import config
from deploy.fleet.programs import SEARCHED, Refused

# Below the range from which the kernel takes the ports of outgoing connections: a server that is down keeps its port.
REDIS_PORTS, POSTGRES_PORTS = range(20_000, 26_000), range(26_000, 32_000)
# Of the instances, where the environment says nothing else.
DEFAULTS = {"SHUTDOWN_DELAY": "2"}
# Set to the fleet's own, so that no other form of them may stand beside.
STORES = {"REDIS_URL_FILE", "DATABASE_URL_FILE"}
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
    """Raises Refused if they can't be had."""
    fleet, first = _number(environ, "FLEET_PORT", 8080), _number(environ, "PORT", 3001)
    count = _number(environ, "INSTANCES", 3, most=64)
    ports = Ports(fleet, list(range(first, first + count)), _free_port(REDIS_PORTS), _free_port(POSTGRES_PORTS))
    if fleet in ports.instances:
        raise Refused(f"FLEET_PORT {fleet} is one of the ports of the instances, {first} to {first + count - 1}.")
    taken = [f"{port} ({name})" for name, port in ports.names().items() if not _is_free(port)]
    if taken:
        raise Refused(f"Already in use: port {', '.join(taken)}. Others can be set: FLEET_PORT=… PORT=… make fleet")
    return ports


def _number(environ: Mapping[str, str], name: str, default: int, most: int = 65_535) -> int:
    text = environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise Refused(f"{name} is {text!r}: it must be a number from 1 to {most}.")
    return int(text)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections don't count
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


def keep_secrets(file: Path) -> dict[str, str]:
    """Made at the first start: without them the data of the next start would be out of reach."""
    if not file.exists():
        made = {name: secrets.token_hex(32) for name in (*KEYS, "REDIS_PASSWORD", "POSTGRES_PASSWORD")}
        write_private(file, json.dumps(made, indent=1) + "\n")
    kept: dict[str, str] = json.loads(file.read_text())
    return kept


def write_private(file: Path, text: str) -> None:
    """Complete or not at all, and readable for nobody else at any time."""
    scratch = file.with_name(f".{file.name}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    scratch.replace(file)


def shared_environment(environ: Mapping[str, str], ports: Ports, kept: Mapping[str, str]) -> dict[str, str]:
    """The settings of all instances and of the worker: those of the environment, but what makes it this fleet is its own."""
    known = {setting.name.upper() for setting in config.SETTINGS} - {"PORT", "INSTANCE_ID"}
    known |= {f"{setting.name.upper()}_FILE" for setting in config.SETTINGS if setting.metadata["secret"]} - STORES
    given = {name: environ[name] for name in sorted(known & environ.keys()) if environ[name].strip()}
    keys = {name: kept[name] for name in KEYS if f"{name}_FILE" not in given}
    own = {
        "USE_REDIS_SESSIONS": "true",
        "APP_ENV": "development",  # plain http
        "HOST": "127.0.0.1",
        "TRUSTED_PROXIES": "1",
        "REDIS_URL": f"redis://default:{kept['REDIS_PASSWORD']}@127.0.0.1:{ports.redis}/0",
        "DATABASE_URL": f"postgresql://reporadar:{kept['POSTGRES_PASSWORD']}@127.0.0.1:{ports.postgres}/reporadar",
    }
    return DEFAULTS | keys | given | own


def check(settings: Mapping[str, str]) -> config.Config:
    try:
        return config.load(settings)
    except config.ConfigError as error:
        raise Refused("\n".join(["The configuration is at fault:", *error.faults]), config.EX_CONFIG) from None


def process_environment(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """All that a process inherits; nothing of the make that has started the fleet."""
    without = STORES | {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    return {name: value for name, value in environ.items() if name not in without} | {"PATH": SEARCHED} | dict(settings)


def as_lines(settings: Mapping[str, str]) -> str:
    """For `set -a; . FILE` and for programs that read it line by line."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
