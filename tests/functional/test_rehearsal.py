"""`flask rehearse` on a fleet behind the shipped nginx: green without faults, and the right line is red for each seeded fault."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from app.analytics.partitions import SINGLE
from app.operations.rehearsal.commands import PROGRAM
from app.operations.rehearsal.machine import MAX_SLOWDOWN
from app.operations.rehearsal.plan import REDIS_RESTART, ROLLING_RESTART, SIGKILL, Plan
from harness.fleet import SupervisedFleet
from harness.processes import wait_until
from harness.scale import count, full_only
from harness.servers import ROOT, PostgresServer, base_environment, procfile_command

# A load that leaves the instances enough time on a busy machine with two processors.
GENTLE = {
    "sockets": count(24, 40),
    "bystanders": 0,
    "requests_per_second": count(20, 30),
    "notifications_per_second": 15,
    "event_batches_per_second": 8,
}
# The drain rate is low enough to be measured with a few sockets. A stop that hangs takes the whole timeout.
SETTINGS = {"SHUTDOWN_DELAY": "2", "SHUTDOWN_TIMEOUT": "14", "DRAIN_RATE": "20", "TRUSTED_PROXIES": "1"}

GREEN, RED, NOT_JUDGED, INTERRUPTED = 0, 1, 3, 130

# The line of the report that each fault turns red.
FAULTS = {
    "no_readiness_flip": "instance-1 unready",
    "all_sockets_at_once": "instance-1 drain",
    "separate_keys": "signed out",
    "stop_that_hangs": "instance-1 stop",
    "session_written_back": "logouts",
}
FAULTS_OF_LOSS = {"separate_keys", "session_written_back"}
TIMED_FAULTS = {"all_sockets_at_once", "session_written_back"}  # a busy machine may hide them
QUICK = {"separate_keys", "session_written_back"}  # the others run with full counts only
LOADS = {"all_sockets_at_once": {"sockets": 80}}  # so many that it exceeds the allowed rate clearly


# Keys in Redis that the rehearsal did not create, or that expire soon.
PASSING = ("fleet:", "dramatiq:", "jobs:", "rate:", SINGLE.stream, "analytics:standing:", "analytics:changing:")

OPT_OUT_FAILS_OPEN = "tests.faults.opt_out_fails_open"


# The fleets of the negative controls have two instances, of which the rehearsal restarts one, or both in the full run.
RESTARTED = count(1, 2)


def rehearse(fleet: SupervisedFleet, *phases: str, restarted: int | None = None, **load: int) -> tuple[int, dict[str, Any], str]:
    """Return the exit status, the report and both outputs. `restarted`: how many of the instances; all by default."""
    instances = {name: str(fleet.pid_files[name]) for name in fleet.names[:restarted]}
    plan = Plan(fleet.url, instances, f"kill $(cat {fleet.pid_files['redis']})", True, phases, **GENTLE | load)
    environment = base_environment() | fleet.environment
    done = subprocess.run([*PROGRAM, plan.dump()], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570)
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    return done.returncode, json.loads(done.stdout), output


def interrupted(fleet: SupervisedFleet, output: Path) -> int:
    """Return the exit status of the command when it gets SIGTERM in the middle of its work."""
    program, *_ = procfile_command("release")
    instances = [f"--instance={name}={fleet.pid_files[name]}" for name in fleet.names]
    command = [program, "--app", "wsgi", "rehearse", "--url", fleet.url, *instances]
    with output.open("wb") as file:
        environment = base_environment() | fleet.environment
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT) as running:
            wait_until(lambda: ROLLING_RESTART in output.read_text(), timeout=300, what="the rehearsal to begin")
            running.terminate()
            return running.wait(120)


def left_behind(fleet: SupervisedFleet) -> tuple[list[str], int]:
    """Return the keys in Redis, and the number of rows of users and of their events."""
    with fleet.redis.client() as client, psycopg2.connect(fleet.environment["DATABASE_URL"]) as connection:
        wait_until(lambda: client.xlen(SINGLE.stream) == 0, timeout=10, what="the last events to be stored or dropped")
        keys = [key for key in client.scan_iter("*") if not key.startswith(PASSING)]
        with connection.cursor() as cursor:
            cursor.execute("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM analytics_events)")
            (rows,) = cursor.fetchone() or (0,)
    connection.close()
    return keys, rows


@pytest.mark.serial
def test_fleet_without_faults_passes(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with SupervisedFleet(tmp_path, postgres_server, size=count(2, 3), settings=SETTINGS) as fleet:
        status, card, output = rehearse(fleet, ROLLING_RESTART, SIGKILL, REDIS_RESTART)
        assert (status, card["verdict"]) in ((GREEN, "green"), (NOT_JUDGED, "not judged")), output
        assert statuses(card) <= {"green", "not judged"}, output
        assert {f"instance-{n} {what}" for n in range(1, len(fleet.names) + 1) for what in ("unready", "drain", "stop")} <= names(
            card
        )
        assert left_behind(fleet) == ([], 0)
        assert interrupted(fleet, tmp_path / "output") == INTERRUPTED
        assert left_behind(fleet) == ([], 0)


def marks_of(fault: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.serial] * (fault in TIMED_FAULTS) + [full_only] * (fault not in QUICK)


@pytest.mark.parametrize(
    ("fault", "red"),
    [pytest.param(*item, marks=marks_of(item[0])) for item in FAULTS.items()],
    ids=FAULTS,
)
def test_each_fault_turns_its_line_red(postgres_server: PostgresServer, tmp_path: Path, fault: str, red: str) -> None:
    application = f"tests.faults.{fault}:app"
    with SupervisedFleet(tmp_path, postgres_server, size=2, application=application, settings=SETTINGS) as fleet:
        status, card, output = rehearse(fleet, ROLLING_RESTART, restarted=RESTARTED, **LOADS.get(fault, {}))
        (line,) = [line for line in card["lines"] if line["name"] == red]
        if line["status"] == "not judged":  # on a machine that is too busy
            assert fault not in FAULTS_OF_LOSS, output
            assert status in (RED, NOT_JUDGED)
        else:
            assert (line["status"], status, card["verdict"]) == ("red", RED, "red"), output


@contextmanager
def busy_machine() -> Iterator[None]:
    """Let two programs compete for each processor."""
    with ExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


@pytest.mark.serial
@full_only
@pytest.mark.parametrize(
    ("application", "is_faulty"),
    [("wsgi:app", False), ("tests.faults.session_written_back:app", True)],
    ids=["healthy", "faulty"],
)
def test_busy_machine_turns_no_line_red_but_a_fault_does(
    postgres_server: PostgresServer, tmp_path: Path, application: str, is_faulty: bool
) -> None:
    with SupervisedFleet(tmp_path, postgres_server, size=2, application=application, settings=SETTINGS) as fleet, busy_machine():
        status, card, output = rehearse(fleet, ROLLING_RESTART, SIGKILL)
    red = {line["name"] for line in card["lines"] if line["status"] == "red"}
    assert "logouts" in red if is_faulty else not red, output
    assert status in ((RED,) if is_faulty else (GREEN, NOT_JUDGED))
    (machine,) = [line["text"] for line in card["lines"] if line["name"] == "machine"]
    assert float(re.findall(r"took up to ([\d.]+) x", machine)[0]) > MAX_SLOWDOWN


@full_only
@pytest.mark.parametrize(
    ("application", "worker", "what"),
    [
        (f"{OPT_OUT_FAILS_OPEN}:app", "app.worker", "accepted"),  # and dropped by the worker
        ("wsgi:app", OPT_OUT_FAILS_OPEN, "stored"),
    ],
    ids=["at the door", "where events are stored"],
)
def test_opt_out_that_fails_open_turns_its_line_red(
    postgres_server: PostgresServer, tmp_path: Path, application: str, worker: str, what: str
) -> None:
    with SupervisedFleet(tmp_path, postgres_server, size=2, application=application, worker=worker, settings=SETTINGS) as fleet:
        status, card, output = rehearse(fleet, ROLLING_RESTART, restarted=RESTARTED, opt_outs_per_second=3)
        assert (status, card["verdict"]) == (1, "red"), output
        lines = {line["name"]: line for line in card["lines"]}
        assert not lines["opt-outs"]["ok"], output
        assert re.search(rf" [1-9][0-9,]* {what}\b", lines["opt-outs"]["text"]), output
        assert lines["events"]["ok"], output


def names(card: dict[str, Any]) -> set[str]:
    return {line["name"] for line in card["lines"]}


def statuses(card: dict[str, Any]) -> set[str]:
    return {line["status"] for line in card["lines"]}
