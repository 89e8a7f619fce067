"""`flask rehearse`: tests on the running fleet what visitors notice of a deployment, a crash and a restart of Redis."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from dotenv import dotenv_values

from app.core.config import PROJECT_ROOT
from app.operations.rehearsal.plan import Plan

# Written by `make fleet`.
FLEET_SETTINGS = PROJECT_ROOT / "instance" / "fleet.env"
FLEET_PIDS = PROJECT_ROOT / "instance" / "fleet"

PROGRAM = [sys.executable, "-m", "gevent.monkey", "--module", "app.rehearsal"]


@click.command()
@click.option("--url", help="URL of the load balancer.")
@click.option(
    "--instance", "instances", multiple=True, metavar="NAME=PIDFILE", help="An INSTANCE_ID and the pid file of its gunicorn."
)
@click.argument("further", nargs=-1, metavar="[NAME=PIDFILE]...")
@click.option("--redis-restart", metavar="CMD", help="Shell command that restarts Redis. Without it, Redis is not restarted.")
@click.option("--json", "as_json", is_flag=True, help="Print the report card as JSON.")
def rehearse(
    url: str | None, instances: tuple[str, ...], further: tuple[str, ...], redis_restart: str | None, as_json: bool
) -> None:
    """Rehearse a deployment on the running fleet: stop and kill its instances and restart its Redis while it is under load.

    A supervisor has to start again everything that is stopped. Without options, the command uses a running `make fleet`. The
    fleet's settings come from the environment, or from instance/fleet.env. Exit status: 0 if the report is green, 1 if it is red,
    3 if the machine was too busy to judge it.
    """
    environment = _fleet_environment()
    instances += further  # --instance may be repeated, or given once with all values behind it
    if url or instances or redis_restart:
        if not url or not instances:
            raise click.UsageError("--url and --instance must be given together")
        plan = Plan(url, dict(map(_parse_instance, instances)), redis_restart, as_json)
    else:
        plan = _make_fleet_plan(environment, as_json)
    sys.exit(_run(plan, environment))


def _fleet_environment() -> dict[str, str]:
    if os.environ.get("USE_REDIS_SESSIONS"):
        return dict(os.environ)
    if not FLEET_SETTINGS.exists():
        raise click.UsageError(
            f"USE_REDIS_SESSIONS is not set and {FLEET_SETTINGS} does not exist: start `make fleet` or set the environment"
        )
    settings = {name: value for name, value in dotenv_values(FLEET_SETTINGS, interpolate=False).items() if value is not None}
    return {**os.environ, **settings}


def _parse_instance(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise click.UsageError(f"--instance must be NAME=PIDFILE, not {text}")
    return name, str(Path(path).absolute())


def _make_fleet_plan(environment: Mapping[str, str], as_json: bool) -> Plan:
    pid_files = {path.stem: str(path) for path in sorted(FLEET_PIDS.glob("instance-*.pid"))}
    if "FLEET_URL" not in environment or not pid_files:
        raise click.UsageError("`make fleet` is not running: start it, or give --url, --instance and --redis-restart")
    return Plan(environment["FLEET_URL"], pid_files, f"kill $(cat '{FLEET_PIDS}/redis.pid')", as_json)


def _run(plan: Plan, environment: Mapping[str, str]) -> int:
    """Run the plan in a new process, because this one is not patched by gevent. Signals are handled there."""
    child_environment = {name: value for name, value in environment.items() if name != "FLASK_RUN_FROM_CLI"}
    with subprocess.Popen([*PROGRAM, plan.dump()], env=child_environment, cwd=PROJECT_ROOT) as program:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes
        signal.signal(signal.SIGTERM, lambda *_: program.terminate())
        return program.wait()
