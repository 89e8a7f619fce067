"""The services of deploy/docker without Docker: with the same files, commands, users and environments.

Missing are the base images, and with them the packages of the Dockerfile's RUN lines: programs come from this machine.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml
from docker.utils import exclude_paths
from dockerfile_parse import DockerfileParser

from harness import web
from harness.processes import free_port, run
from harness.servers import ROOT, PostgresServer, RedisServer, Server, base_environment, folder_open_to_all

DOCKER = ROOT / "deploy" / "docker"

# For a user who is not root: leave to read what is private to root, such as a virtualenv below its home, and no other.
READING = "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"

Service = dict[str, Any]


def services() -> dict[str, Service]:
    """Return the services of compose.yaml, with its anchors merged."""
    found: dict[str, Service] = compose()["services"]
    return found


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return content


def container_user(user: str) -> list[str] | None:
    """Return a command prefix that runs as neither root nor the owner of the files, or None if there is none."""
    if os.geteuid() != 0:
        return []  # the owner, but the files are for reading only
    uid, _, gid = user.partition(":")
    plain = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    for prefix in ([*plain, *READING.split()], plain):
        with suppress(AssertionError):
            run([*prefix, sys.executable, "-c", ""], environment=base_environment(), directory=Path("/"))
            return prefix
    return None


def last_stage() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile's last stage with their values."""
    structure = DockerfileParser(path=str(DOCKER / "Dockerfile")).structure
    start = max(number for number, line in enumerate(structure) if line["instruction"] == "FROM")
    return [(line["instruction"], line["value"]) for line in structure[start:]]


def image_command() -> list[str]:
    command: list[str] = json.loads(dict(last_stage())["CMD"])
    return command


class Image:
    """The last stage of the Dockerfile: the read-only files of its COPY lines, and how they are run."""

    def __init__(self, root: Path) -> None:
        self.instructions = last_stage()
        self.root = root
        self.folder = root
        for instruction, value in self.instructions:
            if instruction == "WORKDIR":
                self.folder = root / value.lstrip("/")
                self.folder.mkdir(parents=True)
            elif instruction == "COPY" and not value.startswith("--from="):
                self._copy(*shlex.split(value))
        for path in [root, *root.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222 | 0o444)

    def value(self, instruction: str) -> str:
        (found,) = [value for name, value in self.instructions if name == instruction]
        return str(found)

    @property
    def environment(self) -> dict[str, str]:
        pairs = dict(word.split("=", 1) for word in shlex.split(self.value("ENV")))
        return pairs | {"PATH": f"{self.root}/usr/local/bin:{base_environment()['PATH']}"}

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def _copy(self, *words: str) -> None:
        *sources, target = words
        destination = (self.root / target.lstrip("/")) if target.startswith("/") else (self.folder / target)
        for path in sorted(context()):
            for source in sources:
                below = Path(path).relative_to(source) if Path(path).is_relative_to(source) else None
                if below is None or not (ROOT / path).is_file():
                    continue
                copy = destination / below if below.parts else destination / Path(source).name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, copy)


def context() -> set[str]:
    """Return the files that .dockerignore leaves, according to Docker's own library."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    found: set[str] = exclude_paths(str(ROOT), [line for line in lines if line and not line.startswith("#")])
    return found


def program(command: Sequence[str], path: str) -> list[str]:
    name, *arguments = command
    return [shutil.which(name, path=path) or name, *arguments]


class Container(Server):
    """A service of compose.yaml that runs the image."""

    def __init__(self, image: Image, service: Service, substitutes: Mapping[str, str]) -> None:
        """`substitutes`: the local values for names and paths inside the containers."""
        super().__init__()
        self.image = image
        self.service = service
        self._substitutes = substitutes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self) -> str:
        """Run the service to its end and return its output."""
        return run(self._command(), environment=self._environment(), directory=self.image.folder)

    def check_health(self) -> str:
        """Run the health check of the service. Raise AssertionError if it fails."""
        _, *command = self.service["healthcheck"]["test"]
        return run(self._as_user(command), environment=self._environment(), directory=self.image.folder)

    def _command(self) -> list[str]:
        return self._as_user(self.service.get("command") or image_command())

    def _as_user(self, command: Sequence[str]) -> list[str]:
        return [*(container_user(self.image.value("USER")) or []), *program(command, self.image.environment["PATH"])]

    def _environment(self) -> dict[str, str]:
        # Compose takes a variable without a value from the shell, and here the shell sets none.
        values = {name: value for name, value in self.service["environment"].items() if value is not None}
        given = {name: substitute(value, self._substitutes) for name, value in values.items()}
        return self.image.environment | given | {"HOST": "127.0.0.1", "PORT": str(self.port)}

    def _working_directory(self) -> Path:
        return self.image.folder

    def _answers(self) -> bool:
        if "healthcheck" in self.service and self.service["healthcheck"].get("disable"):
            return True
        try:
            return web.get(f"{self.url}/health/ready", timeout=2).is_success
        except httpx.TransportError:
            return False


class ComposedRedis(RedisServer):
    """Redis with the command and the password of compose.yaml, on its own port and in its own folder."""

    def __init__(self, secrets: Path) -> None:
        super().__init__(password=(secrets / "redis.conf").read_text().split()[1])
        self._secrets = secrets

    def _command(self) -> list[str]:
        command = [substitute(word, {"/run/secrets": str(self._secrets)}) for word in services()["redis"]["command"]]
        return [*command, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--appendfsync", "no"]


class ComposedPostgres(PostgresServer):
    def __init__(self, secrets: Path) -> None:
        super().__init__(password=(secrets / "postgres_password").read_text().strip())


class ComposedNginx(Server):
    """nginx with the command and the configuration of compose.yaml."""

    def __init__(self, substitutes: Mapping[str, str]) -> None:
        super().__init__()
        self.plain_port = free_port()
        self._substitutes = {
            **substitutes,
            "/run/nginx": str(self.folder),
            "/etc/nginx/nginx.conf": str(self.folder / "nginx.conf"),
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "listen 80": f"listen 127.0.0.1:{self.plain_port}",
        }

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def reload(self, configuration: str, substitutes: Mapping[str, str] | None = None) -> None:
        """Load another configuration while nginx runs. `substitutes`: further local values for names in it."""
        self._write(configuration, {**self._substitutes, **(substitutes or {})})
        self.send(signal.SIGHUP)

    def _write(self, configuration: str, substitutes: Mapping[str, str]) -> None:
        (self.folder / "nginx.conf").write_text(substitute(configuration, substitutes))

    def _command(self) -> list[str]:
        self._write((DOCKER / "nginx.conf").read_text(), self._substitutes)
        command = [substitute(word, self._substitutes) for word in services()["nginx"]["entrypoint"]]
        return program(command, f"{os.environ['PATH']}:/usr/sbin")

    def _answers(self) -> bool:
        try:
            return web.get(f"http://127.0.0.1:{self.plain_port}/", timeout=2).is_redirect
        except httpx.TransportError:
            return False


def substitute(text: str, substitutes: Mapping[str, str]) -> str:
    for name, replacement in substitutes.items():
        text = text.replace(name, replacement)
    return text


def open_folder() -> Path:
    """Return a new folder that the user of the containers can read."""
    folder = Path(tempfile.mkdtemp(prefix="reporadar-", dir=folder_open_to_all()))
    folder.chmod(0o755)
    return folder
