"""deploy/systemd without systemd as the first process: checked by its own tools, and by running what the units run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.core import config
from app.server import open_files
from harness import web
from harness.containers import open_folder, substitute
from harness.processes import Process, free_port, run, wait_until
from harness.servers import (
    ROOT,
    Instance,
    Worker,
    base_environment,
    embedded_environment,
    fleet_environment,
    migrate,
    procfile_command,
)

SYSTEMD = ROOT / "deploy" / "systemd"
SERVICES = {"reporadar@.service": "web", "reporadar-worker.service": "worker", "reporadar-schema.service": "release"}
NGINX = "reporadar-nginx.service"
MAX_EXPOSURE = 3  # systemd's own measure: 0 is a service without rights, 10 one without restrictions

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings(unit: str) -> dict[str, list[str]]:
    """The values of each setting of a unit, in order."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with all units, which name the programs of this checkout instead of those in /opt."""
    for unit in SYSTEMD.glob("*.service"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/reporadar", str(ROOT)))
    return tmp_path


def verify(units: Path) -> str:
    paths = sorted(str(unit) for unit in units.glob("*.service"))
    command = ["systemd-analyze", "verify", "--man=no", *paths]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr


@needs_systemd
def test_units_are_valid(units: Path) -> None:
    assert verify(units) == ""
    worker = units / "reporadar-worker.service"
    worker.write_text(worker.read_text().replace("ExecStart=", "ExecStrat="))
    assert "ExecStrat" in verify(units)


def exposure(unit: Path) -> float:
    output = run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)], environment=base_environment(), directory=ROOT
    )
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", output)
    assert found, output
    return float(found[1])


@needs_systemd
@pytest.mark.parametrize("unit", [*SERVICES, NGINX])
def test_services_have_few_rights(unit: str, units: Path) -> None:
    assert exposure(units / unit) < MAX_EXPOSURE
    unrestricted = re.sub(r"(?m)^(CapabilityBoundingSet|SystemCall|Restrict|Protect).*\n", "", (units / unit).read_text())
    (units / unit).write_text(unrestricted)
    assert exposure(units / unit) > MAX_EXPOSURE


def test_services_share_their_restrictions() -> None:
    texts = [(SYSTEMD / unit).read_text() for unit in SERVICES]
    restrictions = {text[text.index("CapabilityBoundingSet=") : text.index("UMask=")] for text in texts}
    assert len(restrictions) == 1


@pytest.mark.parametrize(("unit", "line"), SERVICES.items())
def test_units_run_the_procfile_commands(unit: str, line: str) -> None:
    found = settings(unit)
    program, *arguments = procfile_command(line)
    assert found["ExecStart"] == [" ".join([f"/opt/reporadar/.venv/bin/{Path(program).name}", *arguments])]
    assert found["RestartPreventExitStatus"] == [str(config.EX_CONFIG)]
    assert found["User"] == re.findall(r"(?m)^u (\S+)", (SYSTEMD / "reporadar.sysusers").read_text())


@pytest.mark.parametrize("unit", ["reporadar@.service", "reporadar-worker.service"])
def test_schema_is_upgraded_before_a_start(unit: str) -> None:
    found = settings(unit)
    for relation in ("Wants", "After"):
        assert "reporadar-schema.service" in found[relation][0].split()
    (default,) = [setting.metadata["default"] for setting in config.SETTINGS if setting.name == "shutdown_timeout"]
    assert int(found["TimeoutStopSec"][0]) >= int(default) + 5


def test_open_files_suffice_for_the_highest_number_of_sockets() -> None:
    limit = int(settings("reporadar@.service")["LimitNOFILE"][0])
    highest = 100_000
    with pytest.raises(config.ConfigError, match="MAX_SOCKETS"):
        config.load({"MAX_SOCKETS": str(highest + 1)})
    largest = fleet_environment(
        "redis://127.0.0.1", "postgresql://127.0.0.1/unused", MAX_SOCKETS=str(highest), DATABASE_POOL_SIZE="100"
    )
    assert open_files.needed_by_instance(config.load(largest)) <= limit


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd gives to a service with Type=notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(30)
        yield receiver


def test_instance_reports_that_it_listens(notifications: socket.socket, tmp_path: Path) -> None:
    assert settings("reporadar@.service")["Type"] == ["notify"]
    environment = embedded_environment(tmp_path) | {"NOTIFY_SOCKET": notifications.getsockname()}
    migrate(environment)
    instance = Instance(environment)
    try:
        instance.start(wait_ready=False)
        assert b"READY=1" in notifications.recv(1000).split(b"\n")
        assert web.get(f"{instance.url}/health/live", timeout=30).status_code == httpx.codes.OK  # not refused
    finally:
        instance.close()


def test_nginx_unit_starts_reloads_and_stops() -> None:
    folder, port = open_folder(), free_port()
    substitutes = {
        "/usr/sbin/nginx": shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx",
        "/var/cache/reporadar-nginx": str(folder),
        "/etc/reporadar-nginx.conf": str(folder / "nginx.conf"),
        "user www-data; ": "" if os.geteuid() else "user www-data; ",
    }
    render = [str(ROOT / "deploy" / "nginx" / "render"), "--listen", f"127.0.0.1:{port}", "--access-log", f"{folder}/access.log"]
    configuration = run([*render, f"instance-1=127.0.0.1:{free_port()}"], environment=base_environment(), directory=ROOT)
    (folder / "nginx.conf").write_text(configuration)
    found = settings(NGINX)
    test, start = (substitute(found[name][0], substitutes) for name in ("ExecStartPre", "ExecStart"))
    assert found["ExecReload"][0] == found["ExecStartPre"][0]
    assert int(found["LimitNOFILE"][0]) >= int(re.findall(r"worker_rlimit_nofile (\d+)", configuration)[0])
    run(["sh", "-c", test], environment=base_environment(), directory=ROOT)
    nginx = Process(["sh", "-c", f"exec {start}"], environment=base_environment(), directory=ROOT, folder=folder, user=None)
    try:
        wait_until(lambda: answers_without_instances(port))
        nginx.send(signal.SIGHUP)
        wait_until(lambda: answers_without_instances(port))
        nginx.send(getattr(signal, found["KillSignal"][0]))
        assert nginx.wait(45) == 0
    finally:
        nginx.kill()
        shutil.rmtree(folder)


def answers_without_instances(port: int) -> bool:
    try:
        return web.get(f"http://127.0.0.1:{port}/health/live", timeout=2).status_code == httpx.codes.BAD_GATEWAY
    except httpx.TransportError:
        return False


def test_worker_sends_heartbeats(notifications: socket.socket, redis_url: str, database_url: str, tmp_path: Path) -> None:
    assert settings("reporadar-worker.service")["Type"] == ["notify"]
    heartbeat = tmp_path / "alive"
    environment = fleet_environment(redis_url, database_url, WORKER_HEARTBEAT_FILE=str(heartbeat))
    with Worker(environment | {"NOTIFY_SOCKET": notifications.getsockname()}):
        assert notifications.recv(1000) == b"READY=1"
        assert notifications.recv(1000) == b"WATCHDOG=1"
        wait_until(heartbeat.exists)
        first = heartbeat.stat().st_mtime
        assert notifications.recv(1000) == b"WATCHDOG=1"
        wait_until(lambda: heartbeat.stat().st_mtime > first)
