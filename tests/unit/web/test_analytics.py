"""The analytics page: its time range and its content."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.analytics.reports.ranges import TimeRange
from app.core.errors import Invalid
from app.core.timestamps import DAY, HOUR
from app.database.engine import DatabaseUnavailable
from app.web import analytics
from harness.recorded import event, record
from tests.unit.fleet.test_views import sign_in

PAGE = "/admin/analytics"
NOW = datetime(2025, 10, 3, 20, 15, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def administrator(app: Flask, client: FlaskClient) -> FlaskClient:
    """An administrator who is not counted."""
    client.environ_base["HTTP_SEC_GPC"] = "1"
    sign_in(app, client, is_admin=True)
    return client


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("24h", TimeRange(at("2025-10-02T21"), at("2025-10-03T21"), HOUR)),
        ("7d", TimeRange(at("2025-09-27"), at("2025-10-04"), DAY)),
        ("30d", TimeRange(at("2025-09-04"), at("2025-10-04"), DAY)),
        ("12m", TimeRange(at("2024-10-04"), at("2025-10-04"), DAY)),
        ("nonsense", TimeRange(at("2025-09-04"), at("2025-10-04"), DAY)),
    ],
)
def test_preset_ranges_are_whole_intervals(name: str, expected: TimeRange) -> None:
    assert analytics.preset_range(name, NOW) == expected


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("2025-09-01", "2025-09-30", TimeRange(at("2025-09-01"), at("2025-10-01"), DAY)),
        ("2025-09-01", "2025-09-01", TimeRange(at("2025-09-01"), at("2025-09-02"), HOUR)),
        ("2025-10-01", "", TimeRange(at("2025-10-01"), at("2025-10-04"), HOUR)),
        ("", "2025-09-30", TimeRange(at("2025-09-01"), at("2025-10-01"), DAY)),
    ],
)
def test_custom_ranges(first: str, last: str, expected: TimeRange) -> None:
    assert analytics.custom_range(first, last, NOW) == expected


@pytest.mark.parametrize(("first", "last"), [("2025-09-02", "2025-09-01"), ("x", ""), ("", "2999-99-99"), ("1971-01-01", "")])
def test_invalid_dates_are_rejected(first: str, last: str) -> None:
    with pytest.raises(Invalid):
        analytics.custom_range(first, last, NOW)


def test_page_requires_an_administrator(app: Flask, client: FlaskClient) -> None:
    assert client.get(PAGE).headers["Location"].startswith("/login")
    sign_in(app, client, is_admin=False)
    assert client.get(PAGE).status_code == 403
    assert PAGE not in client.get("/").text


def test_page_shows_counts_and_escapes_names(app: Flask, administrator: FlaskClient) -> None:
    now = datetime.now(UTC)
    record(
        app.extensions["database"],
        *[event("page_viewed", now, f"visitor {number}", "/<script>") for number in range(1234)],
        event("<b>\u202e", now),
    )
    shown = administrator.get(PAGE).text
    assert '<dd id="total">1,235</dd>' in shown
    assert "/&lt;script&gt;" in shown
    assert "&lt;b&gt;\\u202e" in shown
    assert shown.count("<rect x=") == 60
    assert f'href="{PAGE}"' in administrator.get("/").text


def test_export_form_proposes_the_range_of_the_page(administrator: FlaskClient) -> None:
    shown = administrator.get(f"{PAGE}?from=2025-10-01&to=2025-10-03&done=export").text
    for name in ("first_day", "from"):
        assert re.search(rf'<input id="{name}"[^>]* value="2025-10-01"', shown)
    for name in ("last_day", "to"):
        assert re.search(rf'<input id="{name}"[^>]* value="2025-10-03"', shown)
    assert "1 October 2025 to 3 October 2025, by the hour" in shown
    assert "The export has started." in shown


def test_page_without_events_explains_why(app: Flask, administrator: FlaskClient) -> None:
    assert "Nothing has been stored yet" in administrator.get(PAGE).text
    record(app.extensions["database"], event("clicked", datetime.now(UTC) - timedelta(days=60)))
    assert "No events in this time range" in administrator.get(PAGE).text


def test_error_is_shown_at_the_date_field(administrator: FlaskClient) -> None:
    answer = administrator.get(f"{PAGE}?from=2025-10-03&to=2025-10-01")
    assert answer.status_code == 422
    assert '<span class="error" id="from-error">from must be before to.</span>' in answer.text
    assert 'value="2025-10-03"' in answer.text


def test_database_outage_is_reported(app: Flask, administrator: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> NoReturn:
        raise DatabaseUnavailable

    monkeypatch.setattr(app.extensions["analytics_reports"], "overview", fail)
    answer = administrator.get(PAGE)
    assert answer.status_code == 503
    assert "Try again in a moment." in answer.text
