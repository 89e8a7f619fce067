"""The plan that the command derives from its options, the environment and the files of a running `make fleet`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.operations.rehearsal import commands
from app.operations.rehearsal.plan import Plan

# Replaces the rehearsal process: writes its arguments and environment to a file, and exits with the status for red.
FAKE_PROGRAM = """
import json, os, pathlib, sys
received = {"plan": sys.argv[1], "redis": os.environ.get("REDIS_URL"), "flask": os.environ.get("FLASK_RUN_FROM_CLI")}
pathlib.Path(os.environ["RECEIVED"]).write_text(json.dumps(received))
sys.exit(1)
"""


@pytest.fixture(autouse=True)
def fake_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(commands, "PROGRAM", [sys.executable, "-c", FAKE_PROGRAM])
    monkeypatch.setattr(commands, "FLEET_SETTINGS", tmp_path / "fleet.env")
    monkeypatch.setattr(commands, "FLEET_PIDS", tmp_path / "fleet")
    monkeypatch.setenv("RECEIVED", str(tmp_path / "received"))
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.delenv("USE_REDIS_SESSIONS", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def running_fleet(tmp_path: Path) -> Path:
    """Write the files of a running `make fleet`."""
    lines = ["USE_REDIS_SESSIONS=true", "REDIS_URL=redis://127.0.0.1:1", "FLEET_URL=http://127.0.0.1:8080", "ODD=$HOME ${x}"]
    (tmp_path / "fleet.env").write_text("\n".join(lines))
    (tmp_path / "fleet").mkdir()
    for name in ("instance-1", "instance-2", "redis", "worker-1"):
        (tmp_path / "fleet" / f"{name}.pid").write_text("1")
    return tmp_path / "fleet"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.rehearse, arguments)


def received(tmp_path: Path) -> tuple[Plan, str]:
    content = json.loads((tmp_path / "received").read_text())
    assert content["flask"] is None  # otherwise the program would look for its own environment in /proc
    return Plan.load(content["plan"]), content["redis"]


def test_running_fleet_is_found_without_options(running_fleet: Path, tmp_path: Path) -> None:
    assert run().exit_code == 1
    plan, redis_url = received(tmp_path)
    pid_files = {name: str(running_fleet / f"{name}.pid") for name in ("instance-1", "instance-2")}
    assert (plan.url, plan.instances, plan.as_json) == ("http://127.0.0.1:8080", pid_files, False)
    assert plan.redis_restart == f"kill $(cat '{running_fleet}/redis.pid')"
    assert redis_url == "redis://127.0.0.1:1"


@pytest.mark.usefixtures("running_fleet")
@pytest.mark.parametrize(
    "instances",
    [["--instance", "a=/run/a.pid", "--instance", "b=b=1.pid"], ["--instance", "a=/run/a.pid", "b=b=1.pid"]],
    ids=["repeated", "given once"],
)
def test_options_select_another_fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, instances: list[str]) -> None:
    monkeypatch.setenv("USE_REDIS_SESSIONS", "true")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:2")
    assert run("--url", "https://example.org", *instances, "--redis-restart", "true", "--json").exit_code == 1
    plan, redis_url = received(tmp_path)
    assert plan == Plan("https://example.org", {"a": "/run/a.pid", "b": str(Path("b=1.pid").absolute())}, "true", True)
    assert redis_url == "redis://127.0.0.1:2"


@pytest.mark.usefixtures("running_fleet")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--url", "http://127.0.0.1:8080"], "--url and --instance must be given together"),
        (["--instance", "a=a.pid"], "--url and --instance must be given together"),
        (["--redis-restart", "true"], "--url and --instance must be given together"),
        (["--url", "http://127.0.0.1:8080", "--instance", "a.pid"], "NAME=PIDFILE"),
    ],
)
def test_incomplete_options_are_rejected(arguments: list[str], error: str, tmp_path: Path) -> None:
    result = run(*arguments)
    assert (result.exit_code, error in result.output) == (2, True)
    assert not (tmp_path / "received").exists()


def test_missing_fleet_is_reported() -> None:
    result = run()
    assert result.exit_code == 2
    assert "start `make fleet`" in result.output
