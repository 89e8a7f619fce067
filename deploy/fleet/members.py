"""What a fleet is made of: each program with its command, its environment and its folder."""

from __future__ import annotations

import hashlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.core.config import Config
from deploy.fleet.processes import Program
from deploy.fleet.programs import ROOT, SEARCHED
from deploy.fleet.settings import Ports, write_private

INSTANCE_FOLDER = ROOT / "instance"
FOLDER = INSTANCE_FOLDER / "fleet"
# As root. What runs as another user could not get into a private folder such as /root, or into `instance`.
ROOTS_FOLDER = Path("/var/lib/reporadar")


@dataclass(frozen=True)
class Place:
    """Where PostgreSQL and nginx keep what is theirs."""

    folder: Path
    account: pwd.struct_passwd | None

    @property
    def postgres_data(self) -> Path:
        return self.folder / "postgres"


def make_folder() -> None:
    for private in (INSTANCE_FOLDER, FOLDER):
        private.mkdir(mode=0o700, exist_ok=True)


def make_place(account: pwd.struct_passwd | None) -> Place:
    """Of this checkout, and again the same at each start."""
    folder = FOLDER
    if account:
        folder = ROOTS_FOLDER / hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        for opened in (ROOTS_FOLDER, folder):
            opened.chmod(0o711)
    (folder / "nginx").mkdir(exist_ok=True)
    (FOLDER / "redis").mkdir(exist_ok=True)
    return Place(folder, account)


def initdb(program: str, place: Place, password: str) -> Program:
    """Makes the data folder under another name: one that is there is complete."""
    new = place.folder / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    password_file = place.folder / "password"
    write_private(password_file, password)
    if place.account:
        for path in (new, password_file):
            os.chown(path, place.account.pw_uid, place.account.pw_gid)
    command = [program, "--pgdata", str(new), "--username", "reporadar", "--pwfile", str(password_file)]
    command += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
    # What it says is of interest only if it fails, and then on standard error.
    command = ["/bin/sh", "-c", '"$@" >/dev/null', "initdb", *command]
    return Program("postgres", command, _bare_environment(), place.folder, place.account)


def finish_initdb(place: Place) -> None:
    (place.folder / "password").unlink()
    (place.folder / "postgres.new").rename(place.postgres_data)


def postgres(program: str, place: Place, port: int, connections: int) -> Program:
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": str(connections),
        "log_checkpoints": "off",
    }
    command = [program, "-D", str(place.postgres_data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    # SIGINT: without waiting for its clients to leave.
    return Program("postgres", command, _bare_environment(), place.folder, place.account, signal.SIGINT)


def redis(program: str, port: int, password: str) -> Program:
    file = FOLDER / "redis" / "redis.conf"
    # In a file, because everybody can read a command line.
    write_private(
        file,
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{file.parent}"\n'
        'appendonly yes\nsave ""\nmaxmemory-policy noeviction\nloglevel warning\n',
    )
    return Program("redis", [program, str(file)], _bare_environment(), file.parent)


def nginx(program: str, place: Place, ports: Ports) -> Program:
    folder = place.folder / "nginx"
    instances = [f"instance-{number}=127.0.0.1:{port}" for number, port in enumerate(ports.instances, 1)]
    render = [sys.executable, str(ROOT / "deploy/nginx/render"), "--access-log", "access.log"]
    file = folder / "nginx.conf"
    file.write_bytes(subprocess.check_output([*render, "--listen", f"127.0.0.1:{ports.fleet}", *instances]))
    (folder / "access.log").unlink(missing_ok=True)
    return Program(
        "nginx", [program, "-p", str(folder), "-c", str(file), "-e", "stderr", "-g", "daemon off;"], _bare_environment(), folder
    )


def instances(environment: Mapping[str, str], ports: Ports) -> list[Program]:
    named = enumerate(ports.instances, 1)
    return [
        Program(f"instance-{n}", _procfile("web"), {**environment, "INSTANCE_ID": f"instance-{n}", "PORT": str(port)}, ROOT)
        for n, port in named
    ]


def worker(environment: Mapping[str, str]) -> Program:
    """The worker adds its role to the name that it is given."""
    return Program("worker-1", _procfile("worker"), {**environment, "INSTANCE_ID": "fleet"}, ROOT)


def release(environment: Mapping[str, str]) -> Program:
    return Program("release", _procfile("release"), environment, ROOT)


def connections(settings: Config, ports: Ports) -> int:
    """That PostgreSQL has to allow: pools, and some for its operator."""
    return max(100, (len(ports.instances) + 1) * settings.database_pool_size * settings.web_concurrency + 20)


def _procfile(line: str) -> list[str]:
    """The command in the Procfile, as a platform would run it."""
    for entry in (ROOT / "Procfile").read_text().splitlines():
        name, _, command = entry.partition(":")
        if name == line:
            program, *arguments = shlex.split(command)
            return [shutil.which(program, path=SEARCHED) or program, *arguments]
    raise KeyError(line)


def _bare_environment() -> dict[str, str]:
    """Of the stores and nginx, which read no settings of the application."""
    return {"PATH": SEARCHED, "LC_ALL": "C"}
