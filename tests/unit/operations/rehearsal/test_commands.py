"""What the command makes of its options, of the environment, and of what a running `make fleet` leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.operations.rehearsal import commands
from app.operations.rehearsal.plan import Plan

# In the place of the program that rehearses: says what it was told, and is red.
STAND_IN = """
import json, os, pathlib, sys
told = {"plan": sys.argv[1], "redis": os.environ.get("REDIS_URL"), "flask": os.environ.get("FLASK_RUN_FROM_CLI")}
pathlib.Path(os.environ["TOLD"]).write_text(json.dumps(told))
sys.exit(1)
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(commands, "PROGRAM", [sys.executable, "-c", STAND_IN])
    monkeypatch.setattr(commands, "FLEET_SETTINGS", tmp_path / "fleet.env")
    monkeypatch.setattr(commands, "FLEET_PIDS", tmp_path / "fleet")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.delenv("USE_REDIS_SESSIONS", raising=False)


@pytest.fixture
def running_fleet(tmp_path: Path) -> Path:
    """What `make fleet` leaves."""
    lines = ["USE_REDIS_SESSIONS=true", "REDIS_URL=redis://127.0.0.1:1", "FLEET_URL=http://127.0.0.1:8080", "ODD=$HOME ${x}"]
    (tmp_path / "fleet.env").write_text("\n".join(lines))
    (tmp_path / "fleet").mkdir()
    for name in ("instance-1", "instance-2", "redis", "worker-1"):
        (tmp_path / "fleet" / f"{name}.pid").write_text("1")
    return tmp_path / "fleet"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.rehearse, arguments)


def told(tmp_path: Path) -> tuple[Plan, str]:
    heard = json.loads((tmp_path / "told").read_text())
    assert heard["flask"] is None  # or the program would look into /proc for its own environment
    return Plan.load(heard["plan"]), heard["redis"]


def test_without_options_it_finds_a_running_fleet(running_fleet: Path, tmp_path: Path) -> None:
    assert run().exit_code == 1
    plan, redis_url = told(tmp_path)
    pid_files = {name: str(running_fleet / f"{name}.pid") for name in ("instance-1", "instance-2")}
    assert (plan.url, plan.instances, plan.as_json) == ("http://127.0.0.1:8080", pid_files, False)
    assert plan.redis_restart == f"kill $(cat '{running_fleet}/redis.pid')"
    assert redis_url == "redis://127.0.0.1:1"


@pytest.mark.usefixtures("running_fleet")
@pytest.mark.parametrize(
    "instances",
    [["--instance", "a=/run/a.pid", "--instance", "b=b=1.pid"], ["--instance", "a=/run/a.pid", "b=b=1.pid"]],
    ids=["repeated", "followed by all"],
)
def test_options_name_another_fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, instances: list[str]) -> None:
    monkeypatch.setenv("USE_REDIS_SESSIONS", "true")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:2")
    assert run("--url", "https://example.org", *instances, "--redis-restart", "true", "--json").exit_code == 1
    plan, redis_url = told(tmp_path)
    assert plan == Plan("https://example.org", {"a": "/run/a.pid", "b": str(Path("b=1.pid").absolute())}, "true", True)
    assert redis_url == "redis://127.0.0.1:2"


@pytest.mark.usefixtures("running_fleet")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "http://127.0.0.1:8080"], "--url and --instance go together"),
        (["--instance", "a=a.pid"], "--url and --instance go together"),
        (["--redis-restart", "true"], "--url and --instance go together"),
        (["--url", "http://127.0.0.1:8080", "--instance", "a.pid"], "NAME=PIDFILE"),
    ],
)
def test_half_of_a_fleet_is_refused(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    result = run(*arguments)
    assert (result.exit_code, complaint in result.output) == (2, True)
    assert not (tmp_path / "told").exists()


def test_without_a_fleet_it_says_what_it_looked_for() -> None:
    result = run()
    assert result.exit_code == 2
    assert "is `make fleet` running?" in result.output
