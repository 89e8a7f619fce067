from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core.timestamps import DAY, floor, iso
from harness.recorded import event, record
from tests.unit.fleet.test_views import sign_in

SUMMARY = "/api/analytics/summary"


@pytest.fixture
def administrator(app: Flask, client: FlaskClient) -> FlaskClient:
    """An administrator who is not counted."""
    client.environ_base["HTTP_SEC_GPC"] = "1"
    sign_in(app, client, is_admin=True)
    return client


def test_summary_requires_an_administrator(app: Flask, client: FlaskClient) -> None:
    assert client.get(SUMMARY).status_code == 401
    sign_in(app, client, is_admin=False)
    assert client.get(SUMMARY).status_code == 403


def test_summary_has_all_numbers(app: Flask, administrator: FlaskClient) -> None:
    noon = datetime(2025, 10, 3, 12, tzinfo=UTC)
    record(app.extensions["database"], event("clicked", noon), event("signed_up", noon, "bob"), event("clicked", noon))
    answer = administrator.get(f"{SUMMARY}?from=2025-10-03T11:00:00Z&to=2025-10-03T13:00:00Z&interval=hour")
    assert answer.get_json() == {
        "from": "2025-10-03T11:00:00.000Z",
        "to": "2025-10-03T13:00:00.000Z",
        "interval": "hour",
        "total_events": 3,
        "by_name": {"clicked": 2, "signed_up": 1},
        "by_category": {"other": 2, "account": 1},
        "series": [
            {"start": "2025-10-03T11:00:00.000Z", "events": 0, "visitors": 0},
            {"start": "2025-10-03T12:00:00.000Z", "events": 3, "visitors": 2},
        ],
    }


def test_default_is_the_last_30_days(app: Flask, administrator: FlaskClient) -> None:
    record(app.extensions["database"], event("clicked", datetime.now(UTC)))
    found = administrator.get(SUMMARY).get_json()
    today = floor(datetime.now(UTC), DAY)
    assert (found["total_events"], len(found["series"])) == (1, 30)
    assert (found["series"][-1]["start"], found["series"][-1]["visitors"]) == (iso(today), 1)
    assert found["to"] == iso(today + timedelta(days=1))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("to=2025-10-03T20:00:00", "to"),
        ("from=2025-10-03&to=2025-10-03", "from"),
        ("from=2025-01-01&to=2025-10-03&interval=hour", "from"),
        ("interval=week", "interval"),
    ],
)
def test_invalid_parameter_names_its_field(administrator: FlaskClient, query: str, field: str) -> None:
    answer = administrator.get(f"{SUMMARY}?{query}")
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.get_json()["errors"]] == [field]


def test_openapi_describes_the_parameters(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    described = document["paths"][SUMMARY]["get"]
    assert [parameter["name"] for parameter in described["parameters"]] == ["from", "to", "interval"]
    assert "from" in document["components"]["schemas"]["SummaryView"]["properties"]
