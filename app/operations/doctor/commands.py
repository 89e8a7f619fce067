"""`flask doctor`: the guide's Troubleshooting, executed. It also runs where the configuration is faulty."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
import gevent
from flask import Flask, current_app
from flask.cli import with_appcontext

from app.core.config import Config, exit_with_faults
from app.operations.doctor.findings import FAIL, WARN, Finding, fail
from app.operations.doctor.service import Doctor, Findings, examine_without_configuration
from app.redis.client import connect
from app.sessions.interface import SessionInterface

BASE_SECONDS, SECONDS_PER_URL = 40.0, 15.0
AGAIN_SECONDS = 0.5
REDIS_SECONDS = 2.0


class Ended(BaseException):
    """By the time limit or by a signal, as it says. No Exception, so that nothing on the way takes it for its own failure."""


def _address(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    for value in values:
        if not re.fullmatch(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?/?", value):
            raise click.BadParameter("has to look like https://radar.example.org or http://127.0.0.1:3001")
    return list(dict.fromkeys(value.rstrip("/").lower() for value in values))


@click.command()
@click.option(
    "--url",
    "urls",
    multiple=True,
    callback=_address,
    help="Address of an instance, or of the balancer in front of them. Several together are compared.",
)
@with_appcontext
def doctor(urls: list[str]) -> None:
    """Examine configuration, Redis, database, fleet, and the given addresses.

    Each line is ok, warn or fail, and what to do about it. Exit status 1 if anything failed. Takes a few seconds; after 40 s, and
    15 s more for each address, it gives up.
    """
    logging.disable(logging.CRITICAL)  # what matters is said by the lines themselves
    started = time.monotonic()
    counts = {WARN: 0, FAIL: 0}
    total = 0
    for finding in _bounded(_findings(urls), BASE_SECONDS + SECONDS_PER_URL * len(urls)):
        click.echo(finding)
        total += 1
        counts[finding.status] = counts.get(finding.status, 0) + 1
    status = FAIL if counts[FAIL] else WARN if counts[WARN] else "ok"
    seconds = time.monotonic() - started
    click.echo(f"{status:<4} {total} checks in {seconds:.1f} s: {counts[FAIL]} failed, {counts[WARN]} to be looked at")
    sys.exit(1 if counts[FAIL] else 0)


def alone(faults: list[str]) -> Flask:
    """An application that has nothing but the doctor, who tells of the faults. For all other purposes the process ends here."""
    if "FLASK_RUN_FROM_CLI" not in os.environ or "doctor" not in sys.argv:
        exit_with_faults(faults)
    app = Flask(__name__)
    app.config["FAULTS"] = faults
    app.cli.add_command(doctor)
    return app


def _findings(urls: list[str]) -> Findings:
    faults: list[str] | None = current_app.config.get("FAULTS")
    if faults:
        yield from examine_without_configuration(faults, urls)
        return
    config: Config = current_app.config["REPORADAR"]
    interface, fleet = current_app.session_interface, current_app.extensions.get("fleet")
    assert isinstance(interface, SessionInterface)
    yield from Doctor(
        config=config,
        database=current_app.extensions["database"],
        redis=connect(config, "doctor", timeout=REDIS_SECONDS) if config.use_redis_sessions else None,
        sessions=interface.store,
        accounts=current_app.extensions["accounts"],
        notifications=current_app.extensions["notifications_of_commands"],
        fleet_report=fleet.overview if fleet and config.use_redis_sessions else None,
    ).examine(urls)


def _bounded(findings: Findings, seconds: float) -> Iterator[Finding]:
    """All that is found in that time; a surprise ends it too, in words."""
    try:
        with _time_limit(seconds):
            yield from findings
    except Ended as ended:
        yield fail(f"the examination was ended: {ended}", "What should come next has not answered")
    except Exception as error:
        yield fail(f"the examination was ended: {type(error).__name__}", "This is a fault of the doctor's own: please report it")


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises Ended in the main thread then, and on SIGTERM."""
    reason = f"it took longer than {seconds:g} s"

    def end(number: int, _: object) -> None:
        nonlocal reason
        if number == signal.SIGTERM:
            reason = "by a signal"
        if gevent.getcurrent() is gevent.get_hub():  # which would take it for an error of its own: once more in a moment
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
            return
        raise Ended(reason)

    before = {number: signal.signal(number, end) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
