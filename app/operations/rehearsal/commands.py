"""`flask rehearse`: what would happen to visitors if instances and Redis came and went, tried on the running fleet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from dotenv import dotenv_values

from app.core.config import PROJECT_ROOT
from app.operations.rehearsal.plan import Plan

# What `make fleet` leaves.
FLEET_SETTINGS = PROJECT_ROOT / "instance" / "fleet.env"
FLEET_PIDS = PROJECT_ROOT / "instance" / "fleet"

PROGRAM = [sys.executable, "-m", "gevent.monkey", "--module", "app.rehearsal"]


@click.command()
@click.option("--url", help="Of the balancer.")
@click.option(
    "--instance", "instances", multiple=True, metavar="NAME=PIDFILE", help="INSTANCE_ID, and the pid file of its gunicorn."
)
@click.argument("further", nargs=-1, metavar="[NAME=PIDFILE]...")
@click.option("--redis-restart", metavar="CMD", help="A command of the shell; without one, Redis is left alone.")
@click.option("--json", "as_json", is_flag=True, help="The report card as JSON.")
def rehearse(
    url: str | None, instances: tuple[str, ...], further: tuple[str, ...], redis_restart: str | None, as_json: bool
) -> None:
    """Rehearse a deployment on the running fleet: stop and kill its instances, restart its Redis, under a load of its own.

    Whatever is stopped has to be started again by its supervisor. Without options it finds a running `make fleet`. The fleet's
    settings come from the environment, or else from instance/fleet.env. Exit status 0: green, 1: red.
    """
    environment = _environment_of_fleet()
    instances += further  # --instance may be repeated, or be followed by all of them
    if url or instances or redis_restart:
        if not url or not instances:
            raise click.UsageError("--url and --instance go together")
        plan = Plan(url, dict(map(_named_file, instances)), redis_restart, as_json)
    else:
        plan = _plan_of_make_fleet(environment, as_json)
    sys.exit(_run(plan, environment))


def _environment_of_fleet() -> dict[str, str]:
    if os.environ.get("USE_REDIS_SESSIONS"):
        return dict(os.environ)
    if not FLEET_SETTINGS.exists():
        raise click.UsageError(
            f"the environment is not that of a fleet, and there is no {FLEET_SETTINGS}: is `make fleet` running?"
        )
    settings = {name: value for name, value in dotenv_values(FLEET_SETTINGS, interpolate=False).items() if value is not None}
    return {**os.environ, **settings}


def _named_file(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise click.UsageError(f"--instance wants NAME=PIDFILE, not {text}")
    return name, str(Path(path).absolute())


def _plan_of_make_fleet(environment: Mapping[str, str], as_json: bool) -> Plan:
    pid_files = {path.stem: str(path) for path in sorted(FLEET_PIDS.glob("instance-*.pid"))}
    if "FLEET_URL" not in environment or not pid_files:
        raise click.UsageError("`make fleet` is not running here: say --url, --instance and --redis-restart")
    return Plan(environment["FLEET_URL"], pid_files, f"kill $(cat '{FLEET_PIDS}/redis.pid')", as_json)


def _run(plan: Plan, environment: Mapping[str, str]) -> int:
    """In a process of its own: this one's threads are no greenlets. Signals are for that one to act upon."""
    clean = {name: value for name, value in environment.items() if name != "FLASK_RUN_FROM_CLI"}
    with (
        subprocess.Popen([*PROGRAM, plan.dump()], env=clean, cwd=PROJECT_ROOT) as program,
        _passed_on(program),
    ):
        return program.wait()


@contextmanager
def _passed_on(program: subprocess.Popen[bytes]) -> Iterator[None]:
    def pass_on(number: int, _frame: Any) -> None:
        if number == signal.SIGTERM:  # Ctrl-C reaches both by itself
            program.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
