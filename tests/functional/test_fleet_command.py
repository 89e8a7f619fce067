"""`make fleet` runs a whole fleet on one machine, in a private folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from harness import web
from harness.processes import free_ports, run
from harness.servers import PROGRAMS, ROOT, Server, base_environment, procfile_command, wait_until
from harness.users import User

RUNS = "The fleet is running"
MEMBERS = {"instance-1", "instance-2", "worker-1", "nginx", "redis", "postgres"}
ELSEWHERE = re.compile(r"PostgreSQL's data \(not run as root\) in (\S+)")


class MadeFleet(Server):
    """`make fleet` in a copy of this checkout, with its own data."""

    def __init__(self, **environment: str) -> None:
        super().__init__()
        self.environment = {"FLEET_PORT": str(self.port), "PORT": str(free_ports(2)[0]), "INSTANCES": "2", **environment}
        listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
        for name in filter(None, listed.stdout.decode().split("\0")):
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # deleted and not yet committed
                shutil.copy(ROOT / name, target)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        return self.folder / "instance" / "fleet"

    def member(self, name: str) -> int:
        """Wait for the process of a member and return its ID."""
        file = self.state / f"{name}.pid"
        return wait_until(lambda: file.exists() and int(file.read_text() or 0), what=f"{name} to run")

    def again(self, name: str, former: int) -> int:
        return wait_until(lambda: (pid := self.member(name)) != former and pid, what=f"{name} to run again")

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def wait_ready(self, timeout: float = 120) -> None:
        super().wait_ready(timeout)

    def close(self) -> None:
        elsewhere = {Path(found) for found in ELSEWHERE.findall(self.log())} if self._started else set()
        super().close()
        for folder in elsewhere:
            shutil.rmtree(folder)

    def _environment(self) -> dict[str, str]:
        return base_environment() | self.environment

    def _command(self) -> list[str]:
        """Return the command of the Makefile, with the interpreter of the tests."""
        (line,) = re.findall(r"^fleet: installed\n\t@exec \.venv/bin/(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        program, *arguments = line.split()
        return [str(PROGRAMS / program), *arguments]

    def start(self, wait_ready: bool = True) -> None:
        self._told = self.log().count(RUNS) if self._started else 0
        super().start(wait_ready)

    def _answers(self) -> bool:
        return self.log().count(RUNS) > self._told


@pytest.fixture(scope="module")
def fleet() -> Iterator[MadeFleet]:
    with MadeFleet() as fleet:
        yield fleet


def is_ready(port: int) -> bool:
    try:
        return web.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def visits(user: User, count: int) -> set[str]:
    """Return the instances that answered the signed-in user."""
    answers = [user.get("/api/auth/me") for _ in range(count)]
    assert [answer.status_code for answer in answers] == [200] * count
    return {answer.headers["X-Instance-Id"] for answer in answers}


def test_session_through_nginx_is_valid_on_every_instance(fleet: MadeFleet) -> None:
    user = User(fleet).register()
    assert visits(user, 6) == {"instance-1", "instance-2"}
    (session,) = user.get("/api/auth/sessions").json()["sessions"]
    assert session["ip"] == "127.0.0.1"


def test_folder_and_its_files_are_private(fleet: MadeFleet) -> None:
    file = fleet.folder / "instance" / "fleet.env"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (fleet.folder, file.parent, file)] == [0o700, 0o700, 0o600]
    settings = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert settings["FLEET_URL"] == fleet.url
    assert settings["SHUTDOWN_DELAY"] == "2"
    assert not {"PORT", "INSTANCE_ID", "PATH"} & settings.keys()
    shown = " ".join(" ".join(process.cmdline()) for process in fleet.tree())
    assert not [name for name in ("SESSION_SECRET", "SESSION_ENCRYPTION_KEY") if settings[name] in shown + fleet.log()]

    user = User(fleet).register()
    program, *_ = procfile_command("release")
    command = [program, "--app", "wsgi", "users", "promote", user.email]
    run(command, environment=base_environment() | settings, directory=fleet.folder)
    assert user.get("/api/auth/me").json()["user"]["is_admin"] is True


def test_ended_process_is_restarted_on_its_port(fleet: MadeFleet) -> None:
    user = User(fleet).register()
    for name in sorted(MEMBERS):
        former = fleet.member(name)
        os.kill(former, signal.SIGKILL)
        fleet.again(name, former)
        assert f"{name} (pid {former}) was killed by SIGKILL" in fleet.log()
    first = int(fleet.environment["PORT"])
    wait_until(lambda: all(is_ready(port) for port in (first, first + 1)), what="both instances to be ready")
    wait_until(lambda: is_ready(fleet.port), what="nginx to answer")
    assert visits(user, 6) == {"instance-1", "instance-2"}


def test_restarts_of_a_failing_process_back_off(fleet: MadeFleet) -> None:
    former = fleet.member("worker-1")
    wait_until(lambda: psutil.Process(former).create_time() + 7 < time.time(), what="the worker to be steady")
    for pause in ("0.2", "1", "2"):
        os.kill(former, signal.SIGKILL)
        latest = former
        wait_until(lambda: f"worker-1 (pid {latest}) was killed by SIGKILL" in fleet.log(), what="a line")  # noqa: B023
        (line,) = [line for line in fleet.log().splitlines() if f"(pid {former}) was" in line]
        assert line.endswith(f"restarting it in {pause} s")
        former = fleet.again("worker-1", former)


def test_second_fleet_in_the_same_folder_is_refused(fleet: MadeFleet) -> None:
    with pytest.raises(AssertionError, match=r"ended with status 1\nmake fleet: A fleet is already running in this folder"):
        run(fleet._command(), environment=fleet._environment(), directory=fleet.folder)
    assert is_ready(fleet.port)


def test_ports_in_use_are_reported_before_the_start(fleet: MadeFleet) -> None:
    other = MadeFleet(**fleet.environment)
    try:
        with pytest.raises(AssertionError, match="ended with status 1\n") as refused:
            run(other._command(), environment=other._environment(), directory=other.folder)
        first = fleet.environment["PORT"]
        assert f"Already in use: port {fleet.port} (nginx), {first} (instance-1), {int(first) + 1} (instance-2)" in str(
            refused.value
        )
        assert not (other.folder / "instance" / "fleet.env").exists()
    finally:
        other.close()


def test_missing_programs_are_named(tmp_path: Path) -> None:
    environment = base_environment() | {"PATH": str(tmp_path)}
    with pytest.raises(AssertionError, match=r"missing: .*redis-server.*\n +apt-get install .* redis-server .*git\n"):
        run([str(PROGRAMS / "python"), "-m", "deploy.fleet"], environment=environment, directory=ROOT)


def test_configuration_errors_are_reported_before_the_start() -> None:
    with_faults = MadeFleet(DRAIN_RATE="geheim", RATE_LIMIT_LOGIN="geheim")
    try:
        with pytest.raises(AssertionError, match="ended with status 78\n") as refused:
            run(with_faults._command(), environment=with_faults._environment(), directory=with_faults.folder)
        assert "DRAIN_RATE" in str(refused.value)
        assert "RATE_LIMIT_LOGIN" in str(refused.value)
        assert "geheim" not in str(refused.value)
    finally:
        with_faults.close()


def test_stop_leaves_no_process_and_keeps_the_data() -> None:
    """The same after two Ctrl-C and after SIGKILL of the supervisor."""
    with MadeFleet() as fleet:
        user = User(fleet).register()
        for number in (signal.SIGINT, signal.SIGKILL):
            tree = fleet.tree()
            assert len(tree) > len(MEMBERS)
            fleet.send(number)
            if number == signal.SIGINT:
                wait_until(lambda: "stopping instance-1" in fleet.log(), what="the stop")
                fleet.send(number)
            assert fleet.wait() == (0 if number == signal.SIGINT else -number)
            _, alive = psutil.wait_procs(tree, timeout=10)
            assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
            fleet.start()
            assert visits(user, 4) == {"instance-1", "instance-2"}
        order = [
            name
            for line in fleet.log().splitlines()
            if (found := re.fullmatch(r"fleet +\| (\S+) exited with status 0", line))
            for name in [found[1]]
        ]
        assert sorted(order[:3]) == ["instance-1", "instance-2", "worker-1"]
        assert [order[3], *sorted(order[4:])] == ["nginx", "postgres", "redis"]
