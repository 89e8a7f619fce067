from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask
from sqlalchemy import Connection, Table, func, select, update

from app.analytics.service import Analytics, AnalyticsAccount, Event
from app.database.engine import Database
from app.database.schema import events, rollups, users
from app.operations.doctor import commands
from app.operations.doctor.commands import _bounded
from app.operations.doctor.findings import Finding, ok
from app.operations.doctor.service import Doctor
from app.sessions.interface import SessionInterface
from harness.processes import free_port


@pytest.fixture
def database(app: Flask) -> Database:
    database: Database = app.extensions["database"]
    return database


@pytest.fixture
def doctor(app: Flask, database: Database) -> Doctor:
    assert isinstance(app.session_interface, SessionInterface)
    return Doctor(
        config=app.config["REPORADAR"],
        database=database,
        redis=None,
        sessions=app.session_interface.store,
        accounts=app.extensions["accounts"],
        notifications=app.extensions["notifications"],
        fleet_report=None,
    )


def count(connection: Connection, table: Table = users) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def examination(doctor: Doctor) -> Iterator[Finding]:
    with doctor._test_client():
        yield ok("the account exists")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_account_is_deleted_when_the_doctor_is_terminated(doctor: Doctor, database: Database) -> None:
    findings = _bounded(examination(doctor), 30)
    assert next(findings).status == "ok"
    assert database.run(count) == 1
    (last,) = findings
    assert last.text == "doctor: the examination was interrupted by SIGTERM"
    assert database.run(count) == 0


def test_account_is_deleted_when_the_findings_are_not_read_to_the_end(doctor: Doctor, database: Database) -> None:
    findings = _bounded(examination(doctor), 30)
    next(findings)
    findings.close()  # type: ignore[attr-defined]
    assert database.run(count) == 0


def test_abandoned_account_is_deleted_by_the_next_examination(doctor: Doctor, database: Database) -> None:
    for name in ("doctor-1@doctor.invalid", "doctor-2@doctor.invalid", "doctor@example.org"):
        doctor.accounts.add_without_limit(name, "correct horse battery")
    long_ago = update(users).where(users.c.email != "doctor-2@doctor.invalid").values(created_at=datetime(2026, 1, 1, tzinfo=UTC))
    database.run(lambda connection: connection.execute(long_ago))
    with doctor._test_client() as client:
        assert client.email.endswith("@doctor.invalid")
        assert database.run(count) == 3
    left = database.run(lambda connection: list(connection.execute(select(users.c.email).order_by(users.c.id)).scalars()))
    assert left == ["doctor-2@doctor.invalid", "doctor@example.org"]


def test_account_is_deleted_with_its_events(app: Flask, doctor: Doctor, database: Database) -> None:
    analytics: Analytics = app.extensions["analytics"]
    with doctor._test_client() as client:
        analytics.accept(AnalyticsAccount(client.user_id), [Event("e", "clicked", "account", {}, datetime.now(UTC))])
        assert database.run(count, events) == 1
    assert (database.run(count, events), database.run(count, rollups)) == (0, 0)


def test_fleet_report_is_examined(doctor: Doctor) -> None:
    crashed: dict[str, Any] = {
        "instance_id": "instance-2",
        "nonce": "a",
        "kind": "crashed",
        "at": "now",
        "seconds": None,
        "phases": [],
    }
    live = {"instance_id": "instance-1", "status": "ready", "uptime": 9, "version": "1.0", "obstacles": []}
    report = {"instances": [live], "advice": [], "disagreements": [], "stops": [crashed]}
    texts = [finding.text for finding in replace(doctor, fleet_report=lambda: report).examine([])]
    assert texts[-2:] == ["fleet: instance-1 is ready, up for 9 s, version 1.0", "stops: instance-2 crashed, detected at now"]


def test_examination_ends_after_the_time_limit() -> None:
    def slow() -> Iterator[Finding]:
        yield ok("first")
        time.sleep(60)
        yield ok("never")

    started = time.monotonic()
    first, last = _bounded(slow(), 0.1)
    assert time.monotonic() - started < 30
    assert (first.text, last.text) == ("first", "doctor: the examination was interrupted after 0.1 s")


def test_unexpected_error_is_reported_without_its_details() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("first")
        raise KeyError("secret")

    assert [str(finding).partition("\n")[0] for finding in _bounded(broken(), 10)] == [
        "ok   first",
        "fail doctor: the examination failed: KeyError",
    ]


def test_json_has_the_content_of_the_lines(app: Flask) -> None:
    """The configuration, the database of the embedded instance, and an address that does not answer."""
    address = f"http://127.0.0.1:{free_port()}"
    try:
        lines = app.test_cli_runner().invoke(args=["doctor", "--url", address])
        result = app.test_cli_runner().invoke(args=["doctor", "--url", address, "--json"])
    finally:
        logging.disable(logging.NOTSET)
    report = json.loads(result.output)
    checks = [Finding(check["status"], check["message"], check["advice"] or "") for check in report["checks"]]
    expected = lines.output.splitlines()
    assert "\n".join(map(str, checks)).splitlines() == expected[:-1]
    summary = f"{len(checks)} checks in "
    assert expected[-1].startswith(f"{report['status']:<4} {summary}")
    assert expected[-1].endswith(f": failed: {report['failed']}, warnings: {report['warnings']}")
    assert {check["name"] for check in report["checks"]} == {"configuration", "database", address}
    assert (result.exit_code, lines.exit_code, report["status"], report["failed"]) == (1, 1, "fail", 1)


@pytest.mark.parametrize(
    "value",
    [
        "radar.example.org",
        "ftp://x",
        "http://user:secret@x",
        "http://x/path",
        "http://",
        "http://x:65536",
        "http://x:0",
        "http://[::1:::]",
    ],
)
def test_invalid_address_is_rejected(value: str) -> None:
    result = CliRunner().invoke(commands.doctor, ["--url", value])
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_embedded_instance_is_examined_without_addresses(app: Flask) -> None:
    try:
        result = app.test_cli_runner().invoke(args=["doctor"])
    finally:
        logging.disable(logging.NOTSET)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == "ok   configuration: embedded mode, one instance, development; all settings are valid"
    assert result.output.splitlines()[-1].startswith("ok   ")


def test_only_the_doctor_runs_with_a_faulty_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.setattr("sys.argv", ["flask", "--app", "wsgi", "doctor"])
    app = commands.app_for_doctor(["LOG_FORMAT: must be one of text, json"])
    try:
        result = app.test_cli_runner().invoke(args=["doctor"])
    finally:
        logging.disable(logging.NOTSET)
    assert result.exit_code == 1
    assert result.output.startswith("fail configuration: LOG_FORMAT: must be one of text, json\n       See LOG_FORMAT in")
    monkeypatch.setattr("sys.argv", ["flask", "--app", "wsgi", "notify"])
    with pytest.raises(SystemExit) as left:
        commands.app_for_doctor(["LOG_FORMAT: must be one of text, json"])
    assert left.value.code == 78
