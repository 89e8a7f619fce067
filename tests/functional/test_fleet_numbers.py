"""A fleet behind the shipped nginx loses nothing while it is restarted, killed and disconnected from Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.operations.rehearsal.machine import MachineLoad
from app.operations.rehearsal.plan import Plan
from harness.fleet import SupervisedFleet
from harness.numbers import REQUESTS, RESTARTS
from harness.scale import ENVIRONMENT, count, full_only
from harness.servers import ROOT, PostgresServer, base_environment

SETTINGS = {"TRUSTED_PROXIES": "1", "SHUTDOWN_DELAY": "1"}
FEW_SOCKETS = {
    "sockets": 30,
    "bystanders": count(0, 180),
    "requests_per_second": count(50, 100),
    "notifications_per_second": 10,
}
SOCKETS = count(100, 300)
MANY_SOCKETS = {"sockets": SOCKETS, "bystanders": 0, "requests_per_second": 20, "notifications_per_second": 50}


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupervisedFleet]:
    """A fleet that starts again what a test has ended."""
    with SupervisedFleet(tmp_path_factory.mktemp("fleet"), postgres_server, size=3, settings=SETTINGS) as fleet:
        yield fleet


def measure(
    fleet: SupervisedFleet, scenario: str, load: dict[str, Any], redis_outage: str | None = None, instances: int | None = None
) -> dict[str, Any]:
    """`instances`: how many of the fleet's instances the scenario may restart; all by default."""
    pid_files = {name: str(fleet.pid_files[name]) for name in fleet.names[:instances]}
    plan = replace(Plan(fleet.url, pid_files, redis_outage), **load)
    command = [sys.executable, "-m", "gevent.monkey", "--module", "harness.numbers", scenario, plan.dump()]
    environment = base_environment() | fleet.environment | ENVIRONMENT
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["interrupted"] is None
    return found


def machine_load(found: dict[str, Any]) -> MachineLoad:
    return MachineLoad(found["stall"], found["slowdown"])


def limit(found: dict[str, Any], seconds: float) -> float:
    """Return the limit, extended if the machine is too busy for it."""
    load = machine_load(found)
    return (seconds + load.stall) * (load.slowdown if load.is_too_busy else 1)


@pytest.mark.serial
def test_rolling_restarts_under_load_fail_no_request(fleet: SupervisedFleet) -> None:
    found = measure(fleet, "Rolling", FEW_SOCKETS, instances=count(2, 3))
    assert found["restarts"] >= RESTARTS
    assert found["requests"] >= REQUESTS
    assert found["posts"] > REQUESTS * 4 / 9
    assert found["failed"] == found["given_up"], found["why"]
    assert found["given_up"] == 0 or machine_load(found).is_too_busy, found["why"]
    assert found["longest_gap"] <= limit(found, 1)
    assert found["signed_out"] == 0
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 0, 0)


@full_only
def test_requests_that_are_cut_off_count_as_failed(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The negative control of the test above."""
    with SupervisedFleet(
        tmp_path, postgres_server, size=2, application="tests.faults.requests_cut_off:app", settings=SETTINGS
    ) as fleet:
        assert measure(fleet, "RollingOnce", {**FEW_SOCKETS, "sockets": 5}, instances=1)["failed"] > 0


@pytest.mark.serial
def test_sigkill_of_an_instance_with_many_sockets_loses_nothing(fleet: SupervisedFleet) -> None:
    found = measure(fleet, "Killing", MANY_SOCKETS)
    assert found["sockets"] == SOCKETS
    assert found["accepted"] > 20
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 0, 0)
    back = found["back"]
    assert len(back) >= 0.1 * SOCKETS  # a third of them, if the sockets are evenly shared
    assert sum(seconds <= limit(found, 3) for seconds in back) >= 0.95 * len(back), back
    assert found["failed_attempts"].count(0) >= 0.95 * len(back), "another instance serves the first attempt"


@pytest.mark.serial
@pytest.mark.parametrize(("how", "seconds"), [("stopped", count(5, 10)), ("frozen", count(5, 8))], ids=["stopped", "frozen"])
def test_redis_outage_under_load_is_answered_quickly_and_loses_nothing(fleet: SupervisedFleet, how: str, seconds: int) -> None:
    pid, away = fleet.pid_files["redis"].read_text(), fleet.folder / "redis.away"
    commands = {
        "stopped": f"touch {away}; kill {pid}; sleep {seconds}; rm {away}",
        "frozen": f"kill -STOP {pid}; sleep {seconds}; kill -CONT {pid}",
    }
    found = measure(fleet, "RedisAway", FEW_SOCKETS, commands[how])
    assert found["failed"] > 100
    assert found["unanswered"] == 0, found["why"]
    assert found["slowest"] <= limit(found, 2)
    assert found["failed_late"] == 0 or machine_load(found).is_too_busy, found["why"]
    assert found["signed_out"] == 0
    assert found["accepted"] > 20
    assert (found["lost"], found["doubled"], found["disordered"]) == (0, 0, 0)
