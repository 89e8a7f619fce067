"""The programs of a fleet, each with its command, environment and folder."""

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
from deploy.fleet.executables import ROOT, SEARCH_PATH
from deploy.fleet.processes import Program
from deploy.fleet.settings import Ports, write_private

INSTANCE_FOLDER = ROOT / "instance"
FOLDER = INSTANCE_FOLDER / "fleet"
# Used when root starts the fleet: PostgreSQL runs as another user, who cannot enter private folders such as /root or `instance`.
FOLDER_AS_ROOT = Path("/var/lib/reporadar")


@dataclass(frozen=True)
class DataFolder:
    """The folder of PostgreSQL and nginx, and PostgreSQL's account if root starts the fleet."""

    folder: Path
    account: pwd.struct_passwd | None

    @property
    def postgres_data(self) -> Path:
        return self.folder / "postgres"


def create_private_folders() -> None:
    for private in (INSTANCE_FOLDER, FOLDER):
        private.mkdir(mode=0o700, exist_ok=True)


def create_data_folder(account: pwd.struct_passwd | None) -> DataFolder:
    """Return this checkout's folder, which is the same at each start."""
    folder = FOLDER
    if account:
        folder = FOLDER_AS_ROOT / hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        for shared in (FOLDER_AS_ROOT, folder):
            shared.chmod(0o711)
    (folder / "nginx").mkdir(exist_ok=True)
    (FOLDER / "redis").mkdir(exist_ok=True)
    return DataFolder(folder, account)


def initdb(program: str, data: DataFolder, password: str) -> Program:
    """Create the database folder under a temporary name, so that an existing folder is always complete."""
    new = data.folder / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    password_file = data.folder / "password"
    write_private(password_file, password)
    if data.account:
        for path in (new, password_file):
            os.chown(path, data.account.pw_uid, data.account.pw_gid)
    command = [program, "--pgdata", str(new), "--username", "reporadar", "--pwfile", str(password_file)]
    command += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
    # initdb reports errors on standard error; its standard output is not needed.
    command = ["/bin/sh", "-c", '"$@" >/dev/null', "initdb", *command]
    return Program("postgres", command, _bare_environment(), data.folder, data.account)


def finish_initdb(data: DataFolder) -> None:
    (data.folder / "password").unlink()
    (data.folder / "postgres.new").rename(data.postgres_data)


def postgres(program: str, data: DataFolder, port: int, connections: int) -> Program:
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": str(connections),
        "log_checkpoints": "off",
    }
    command = [program, "-D", str(data.postgres_data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    # SIGINT is PostgreSQL's fast shutdown, which does not wait for clients to disconnect.
    return Program("postgres", command, _bare_environment(), data.folder, data.account, signal.SIGINT)


def redis(program: str, port: int, password: str) -> Program:
    file = FOLDER / "redis" / "redis.conf"
    # The password is in a file, because every user can read a command line.
    write_private(
        file,
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{file.parent}"\n'
        'appendonly yes\nsave ""\nmaxmemory-policy noeviction\nloglevel warning\n',
    )
    return Program("redis", [program, str(file)], _bare_environment(), file.parent)


def nginx(program: str, data: DataFolder, ports: Ports) -> Program:
    folder = data.folder / "nginx"
    instances = [f"instance-{number}=127.0.0.1:{port}" for number, port in enumerate(ports.instances, 1)]
    render = [sys.executable, str(ROOT / "deploy/nginx/render"), "--access-log", "access.log"]
    file = folder / "nginx.conf"
    file.write_bytes(subprocess.check_output([*render, "--listen", f"127.0.0.1:{ports.fleet}", *instances]))
    (folder / "access.log").unlink(missing_ok=True)
    return Program(
        "nginx", [program, "-p", str(folder), "-c", str(file), "-e", "stderr", "-g", "daemon off;"], _bare_environment(), folder
    )


def instances(environment: Mapping[str, str], ports: Ports) -> list[Program]:
    return [
        Program(
            f"instance-{n}", _procfile_command("web"), {**environment, "INSTANCE_ID": f"instance-{n}", "PORT": str(port)}, ROOT
        )
        for n, port in enumerate(ports.instances, 1)
    ]


def worker(environment: Mapping[str, str]) -> Program:
    """The worker appends its role to the INSTANCE_ID."""
    return Program("worker-1", _procfile_command("worker"), {**environment, "INSTANCE_ID": "fleet"}, ROOT)


def release(environment: Mapping[str, str]) -> Program:
    return Program("release", _procfile_command("release"), environment, ROOT)


def max_connections(settings: Config, ports: Ports) -> int:
    """Return PostgreSQL's max_connections: the pools of all processes, and 20 for operators."""
    return max(100, (len(ports.instances) + 1) * settings.database_pool_size * settings.web_concurrency + 20)


def _procfile_command(line: str) -> list[str]:
    """Return the command of that line in the Procfile, as a platform would run it."""
    for entry in (ROOT / "Procfile").read_text().splitlines():
        name, _, command = entry.partition(":")
        if name == line:
            program, *arguments = shlex.split(command)
            return [shutil.which(program, path=SEARCH_PATH) or program, *arguments]
    raise KeyError(line)


def _bare_environment() -> dict[str, str]:
    """Return the environment of the stores and nginx, which use none of the application's settings."""
    return {"PATH": SEARCH_PATH, "LC_ALL": "C"}
