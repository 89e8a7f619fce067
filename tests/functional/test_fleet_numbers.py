"""What a fleet behind the shipped nginx promises while it is restarted, killed and cut off from Redis, counted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.operations.rehearsal.plan import Plan
from harness.fleet import Fleet
from harness.servers import ROOT, PostgresServer, base_environment

SETTINGS = {"TRUSTED_PROXIES": "1", "SHUTDOWN_DELAY": "1"}
FEW = {"sockets": 30, "requests_per_second": 100, "notifications_per_second": 10}
MANY = {"sockets": 300, "requests_per_second": 20, "notifications_per_second": 50}


def measure(fleet: Fleet, scenario: str, load: dict[str, Any], redis_away: str | None = None) -> dict[str, Any]:
    pid_files = {name: str(fleet.pid_files[name]) for name in fleet.instances}
    plan = replace(Plan(fleet.url, pid_files, redis_away), **load)
    command = [sys.executable, "-m", "gevent.monkey", "--module", "harness.numbers", scenario, plan.dump()]
    environment = base_environment() | fleet.environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["interrupted"] is None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_three_rolling_restarts_under_load_fail_nothing(postgres_server: PostgresServer, folder: Path) -> None:
    with Fleet(folder, postgres_server, size=3, application="wsgi:app", **SETTINGS) as fleet:
        found = measure(fleet, "Rolling", FEW)
    assert found["restarts"] >= 3
    assert found["requests"] >= 18_000
    assert found["posts"] > 8_000
    assert found["failed"] == 0, found["why"]
    assert found["longest_gap"] <= 1
    assert found["signed_out"] == 0
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 0, 0)


def test_requests_that_are_cut_off_are_seen(postgres_server: PostgresServer, folder: Path) -> None:
    with Fleet(folder, postgres_server, size=3, application="tests.faults.requests_cut_off:app", **SETTINGS) as fleet:
        assert measure(fleet, "RollingOnce", FEW)["failed"] > 0


def test_a_sigkill_under_300_sockets_loses_nothing(postgres_server: PostgresServer, folder: Path) -> None:
    with Fleet(folder, postgres_server, size=3, application="wsgi:app", **SETTINGS) as fleet:
        found = measure(fleet, "Killing", MANY)
    assert found["sockets"] == 300
    assert found["accepted"] > 200
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 0, 0)
    back = found["back"]
    assert len(back) >= 90
    assert sum(seconds <= 3 + found["stall"] for seconds in back) >= 0.95 * len(back), back


@pytest.mark.parametrize("how", ["stopped for 10 s", "frozen for 8 s"])
def test_redis_away_under_load_hangs_nobody_and_loses_nothing(postgres_server: PostgresServer, folder: Path, how: str) -> None:
    with Fleet(folder, postgres_server, size=3, application="wsgi:app", **SETTINGS) as fleet:
        pid = fleet.pid_files["redis"].read_text()
        away = {
            "stopped for 10 s": f"touch {folder}/redis.away; kill {pid}; sleep 10; rm {folder}/redis.away",
            "frozen for 8 s": f"kill -STOP {pid}; sleep 8; kill -CONT {pid}",
        }
        found = measure(fleet, "RedisAway", {**FEW, "requests_per_second": 50}, away[how])
    assert found["failed"] > 100  # all of them in words, and soon
    assert found["unanswered"] == 0, found["why"]
    assert found["slowest"] <= 2 + found["stall"]
    assert found["failed_late"] == 0, found["why"]
    assert found["signed_out"] == 0
    assert found["accepted"] > 50
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 0, 0)
