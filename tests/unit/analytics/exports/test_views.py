from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.analytics.exports import file, store
from app.analytics.exports.jobs import ExportRunner
from app.auth import store as accounts
from app.core.errors import NotFound
from app.database.engine import Database
from app.database.schema import export_parts
from tests.unit.analytics.exports.conftest import DAY, NOON, event, keep, ordered

PATH = "/api/analytics/exports"
ORDER = {"from": "2026-01-02", "to": "2026-01-03", "format": "csv"}


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    client = app.test_client()
    register(client, "ada@example.org")
    database: Database = app.extensions["database"]
    database.run(accounts.promote, "ada@example.org")
    return client


@pytest.fixture
def exporter(app: Flask) -> ExportRunner:
    return ExportRunner(app.extensions["database"], app.extensions["notifications"], lambda *_: None)


def register(client: FlaskClient, email: str) -> None:
    body = {"email": email, "password": "three calm herons"}
    assert client.post("/api/auth/register", json=body).status_code == 201


def json_of(response: TestResponse) -> dict[str, Any]:
    assert response.json is not None
    return dict(response.json)


def test_export_is_requested_listed_and_downloaded(client: FlaskClient, exporter: ExportRunner, database: Database) -> None:
    keep(database, event(properties={"path": "/ä"}))
    response = client.post(PATH, json=ORDER)
    assert response.status_code == 202
    job = json_of(response)["job"]
    requested_at = job.pop("requested_at")
    expected = {"status": "queued", "progress": 0, "rows": 0, "finished_at": None, "error": None}
    times = {"from": "2026-01-02T00:00:00.000Z", "to": "2026-01-03T00:00:00.000Z"}
    assert job == {"id": 1, **expected, **times}

    early = client.get(f"{PATH}/1")
    assert (early.status_code, early.content_type) == (409, "application/problem+json")

    exporter.run(1)
    (listed,) = json_of(client.get(PATH))["exports"]
    assert (listed["status"], listed["rows"], listed["requested_at"]) == ("succeeded", 1, requested_at)
    assert listed["finished_at"] > requested_at

    file = client.get(f"{PATH}/1")
    assert file.status_code == 200
    assert file.content_type == "text/csv; charset=utf-8"
    assert file.headers["Content-Disposition"] == 'attachment; filename="reporadar-events-2026-01-02-to-2026-01-03.csv"'
    assert file.headers["Cache-Control"] == "no-store"
    line = 'event-000001,2026-01-02T12:00:00.000Z,page_viewed,navigation,"{""path"":""/ä""}"\r\n'
    assert file.text.partition("\r\n")[2] == line


def test_file_name_contains_the_time(client: FlaskClient, exporter: ExportRunner) -> None:
    client.post(PATH, json=ORDER | {"from": "2026-01-02T12:30:00+02:00"})
    exporter.run(1)
    disposition = client.get(f"{PATH}/1").headers["Content-Disposition"]
    assert "reporadar-events-2026-01-02T1030Z-to-2026-01-03.csv" in disposition


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"from": "2026-01-03"}, "to"),
        ({"to": "2026-01-01"}, "to"),
        ({"from": "2026-01-02T10:00:00"}, "from"),  # of which zone?
        ({"from": "yesterday"}, "from"),
        ({"from": ""}, "from"),
        ({"from": None}, "from"),
        ({"from": 20260102}, "from"),
        ({"from": 1767312000.5}, "from"),
        ({"from": "0001-01-01T00:00:00+05:00"}, "from"),
        ({"to": "9999-12-31T23:59:59-05:00"}, "to"),
        ({"to": "2026-02-30"}, "to"),
        ({"format": "xlsx"}, "format"),
        ({"format": None}, "format"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_invalid_request_is_422(client: FlaskClient, changes: dict[str, Any], field: str) -> None:
    response = client.post(PATH, json=ORDER | changes)
    assert response.status_code == 422
    assert [error["field"] for error in json_of(response)["errors"]] == [field]
    assert json_of(client.get(PATH)) == {"exports": []}


def test_longest_range_can_be_exported(client: FlaskClient, exporter: ExportRunner) -> None:
    assert client.post(PATH, json=ORDER | {"from": "1970-01-01", "to": "2999-12-31T23:59:59Z"}).status_code == 202
    exporter.run(1)
    assert client.get(f"{PATH}/1").status_code == 200


def test_fourth_active_export_is_429(client: FlaskClient) -> None:
    answers = [client.post(PATH, json=ORDER) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert answers[3].headers["Retry-After"] == "30"


def test_failed_export_reports_the_reason(client: FlaskClient, database: Database) -> None:
    client.post(PATH, json=ORDER)
    claim = database.run(store.claim, 1, "mine")
    assert isinstance(claim, store.ExportLease)
    database.run(store.fail, claim, "It went wrong.")
    response = client.get(f"{PATH}/1")
    assert (response.status_code, json_of(response)["detail"]) == (409, "This export failed: It went wrong.")
    assert json_of(client.get(PATH))["exports"][0]["error"] == "It went wrong."


def test_exports_require_an_administrator(app: Flask, client: FlaskClient) -> None:
    client.post(PATH, json=ORDER)
    stranger, user = app.test_client(), app.test_client()
    register(user, "bob@example.org")
    for visitor, status in ((stranger, 401), (user, 403)):
        assert visitor.post(PATH, json=ORDER).status_code == status
        assert visitor.get(PATH).status_code == status
        assert visitor.get(f"{PATH}/1").status_code == status


def test_exports_of_another_administrator_are_404(app: Flask, client: FlaskClient, database: Database) -> None:
    client.post(PATH, json=ORDER)
    bob = app.test_client()
    register(bob, "bob@example.org")
    database.run(accounts.promote, "bob@example.org")
    assert bob.get(f"{PATH}/1").status_code == bob.get(f"{PATH}/2").status_code == 404
    assert json_of(bob.get(PATH)) == {"exports": []}


def test_openapi_describes_the_file_and_fields(client: FlaskClient) -> None:
    document = json_of(client.get("/api/openapi.json"))
    answers = document["paths"][f"{PATH}/{{export_id}}"]["get"]["responses"]
    assert set(answers) == {"200", "401", "403", "404", "409", "503"}
    assert answers["200"]["content"] == {"text/csv": {"schema": {"type": "string"}}}
    schemas = document["components"]["schemas"]
    assert schemas["ExportBody"]["required"] == ["from", "to", "format"]
    assert {"from", "to"} <= set(schemas["JobView"]["properties"])


def test_missing_part_aborts_the_download(
    client: FlaskClient, exporter: ExportRunner, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part has been sent by then."""
    monkeypatch.setattr(file, "PART_BYTES", 1)
    keep(database, event())
    export = ordered(database, 1, NOON, NOON + DAY)
    exporter.run(export.id)
    response = client.get(f"{PATH}/{export.id}", buffered=False)
    assert response.status_code == 200
    database.run(lambda connection: connection.execute(export_parts.delete()))
    with pytest.raises(NotFound):
        response.get_data()
