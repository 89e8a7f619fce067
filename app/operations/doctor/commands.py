"""`flask doctor`: the Troubleshooting section of the guide as a program. It also runs with a faulty configuration."""

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import click
import gevent
from flask import Flask, current_app
from flask.cli import with_appcontext

from app.core.config import Config, exit_with_faults
from app.operations.doctor.findings import FAIL, OK, WARN, Finding, fail
from app.operations.doctor.service import Doctor, Findings, examine_without_configuration
from app.redis.client import connect, sentinels_of
from app.sessions.interface import SessionInterface

BASE_SECONDS, SECONDS_PER_URL = 40.0, 15.0
RETRY_SECONDS = 0.5
REDIS_SECONDS = 2.0


class Interrupted(BaseException):
    """The time limit or a signal ended the examination. Not an Exception, so that no check handles it as its own failure."""


def _address(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    for value in values:
        if not re.fullmatch(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?/?", value) or not _has_valid_port(value):
            raise click.BadParameter("must look like https://radar.example.org or http://127.0.0.1:3001")
    return list(dict.fromkeys(value.rstrip("/").lower() for value in values))


def _has_valid_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:  # above 65,535, or an invalid IPv6 address
        return False


@click.command()
@click.option(
    "--url",
    "urls",
    multiple=True,
    callback=_address,
    help="Address of an instance, or of the balancer in front of them. Several addresses are compared.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of the lines.")
@with_appcontext
def doctor(urls: list[str], as_json: bool) -> None:
    """Check the configuration, Redis, the database, the fleet and the given addresses.

    Each line is ok, warn or fail, with what to do. The exit status is 1 if a check failed. It takes a few seconds and is
    interrupted after 40 s plus 15 s for each address.
    """
    logging.disable(logging.CRITICAL)  # the findings say everything
    started = time.monotonic()
    findings = []
    for finding in _bounded(_findings(urls), BASE_SECONDS + SECONDS_PER_URL * len(urls)):
        findings.append(finding)
        if not as_json:
            click.echo(finding)
    seconds = time.monotonic() - started
    click.echo(_as_json(findings, seconds) if as_json else _summary(findings, seconds))
    sys.exit(1 if _worst_status(findings) == FAIL else 0)


def _worst_status(findings: Sequence[Finding]) -> str:
    statuses = {finding.status for finding in findings}
    return next((status for status in (FAIL, WARN) if status in statuses), OK)


def _count(findings: Sequence[Finding], status: str) -> int:
    return sum(finding.status == status for finding in findings)


def _summary(findings: Sequence[Finding], seconds: float) -> str:
    failed, warnings = _count(findings, FAIL), _count(findings, WARN)
    return f"{_worst_status(findings):<4} {len(findings)} checks in {seconds:.1f} s: failed: {failed}, warnings: {warnings}"


def _as_json(findings: Sequence[Finding], seconds: float) -> str:
    report = {
        "status": _worst_status(findings),
        "failed": _count(findings, FAIL),
        "warnings": _count(findings, WARN),
        "seconds": round(seconds, 1),
        "checks": [
            {"status": finding.status, "name": finding.name, "message": finding.text, "advice": finding.advice or None}
            for finding in findings
        ],
    }
    return json.dumps(report, indent=2)


def app_for_doctor(faults: list[str]) -> Flask:
    """Return an application with only the command `doctor`, which reports the faults. Any other process exits with status 78."""
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
    sentinels = sentinels_of(config)
    yield from Doctor(
        config=config,
        database=current_app.extensions["database"],
        redis=connect(config, "doctor", timeout=REDIS_SECONDS, sentinels=sentinels) if config.use_redis_sessions else None,
        sentinels=sentinels,
        sessions=interface.store,
        accounts=current_app.extensions["accounts"],
        notifications=current_app.extensions["notifications_of_commands"],
        fleet_report=fleet.overview if fleet and config.use_redis_sessions else None,
        worker_monitor=current_app.extensions["worker_monitor"],
    ).examine(urls)


def _bounded(findings: Findings, seconds: float) -> Iterator[Finding]:
    """Yield the findings within the time limit. An unexpected error becomes the last finding."""
    try:
        with _time_limit(seconds):
            yield from findings
    except Interrupted as interrupted:
        yield fail(f"doctor: the examination was interrupted {interrupted}", "The check after the last line above got no answer")
    except Exception as error:
        yield fail(f"doctor: the examination failed: {type(error).__name__}", "This is a bug in the doctor: please report it")


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise Interrupted in the main thread after the time limit and on SIGTERM."""
    reason = f"after {seconds:g} s"

    def interrupt(number: int, _: object) -> None:
        nonlocal reason
        if number == signal.SIGTERM:
            reason = "by SIGTERM"
        if gevent.getcurrent() is gevent.get_hub():  # the hub would log the exception as its own error: retry
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
            return
        raise Interrupted(reason)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
