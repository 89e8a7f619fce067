"""The exports section of the analytics page, without scripts."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.analytics.exports import store
from app.analytics.exports.jobs import ExportRunner
from app.auth import store as accounts
from app.database.engine import Database

FORM = {"first_day": "2026-01-02", "last_day": "2026-01-03"}


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    client = app.test_client()
    register(client, "ada@example.org")
    database: Database = app.extensions["database"]
    database.run(accounts.promote, "ada@example.org")
    return client


def register(client: FlaskClient, email: str) -> None:
    body = {"email": email, "password": "three calm herons"}
    assert client.post("/api/auth/register", json=body).status_code == 201


def order(client: FlaskClient) -> str:
    """Request an export and return the page afterwards."""
    response = client.post("/admin/analytics/exports", data=FORM)
    assert response.status_code == 303
    assert response.location == "/admin/analytics?done=export#exports"
    return shown(client)


def shown(client: FlaskClient) -> str:
    response = client.get("/admin/analytics/exports")
    assert response.status_code == 200
    return re.sub(r"\s+", " ", response.text)


def test_last_day_is_inclusive(client: FlaskClient, database: Database) -> None:
    html = order(client)
    assert "2 January 2026 to 3 January 2026" in html
    assert "Waiting for its turn" in html
    (export,) = database.run(store.list_by_user, 1)
    assert (export.until - export.since).days == 2


def test_progress_and_result_are_shown(app: Flask, client: FlaskClient, database: Database) -> None:
    order(client)
    lease = database.run(store.claim, 1, "mine")
    assert isinstance(lease, store.ExportLease)
    database.run(store.save_progress, lease, progress=42, rows=12345)
    html = shown(client)
    assert 'data-export="1"' in html
    assert "12,345 events written" in html
    assert "<span data-percent>42</span> %" in html
    database.run(store.succeed, lease, 12346)
    html = shown(client)
    assert 'data-export="1"' not in html
    assert "12,346 events, ready" in html
    assert 'href="/api/analytics/exports/1"' in html


def test_failed_export_shows_the_reason(client: FlaskClient, database: Database) -> None:
    order(client)
    lease = database.run(store.claim, 1, "mine")
    assert isinstance(lease, store.ExportLease)
    database.run(store.fail, lease, "It went <wrong>.")
    html = shown(client)
    assert "Failed: It went &lt;wrong&gt;." in html
    assert "/api/analytics/exports/1" not in html


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"first_day": "2026-01-04"}, "The last day is before the first day."),
        ({"first_day": ""}, "Choose a day."),
        ({"last_day": "2026-02-30"}, "Choose a day."),
        ({"first_day": "0001-01-01"}, "Choose a day."),
    ],
)
def test_form_with_errors_keeps_its_values(client: FlaskClient, changes: dict[str, str], sentence: str) -> None:
    response = client.post("/admin/analytics/exports", data=FORM | changes)
    assert response.status_code == 422
    assert sentence in response.text
    assert all(f'value="{text}"' in response.text for text in (FORM | changes).values() if text)


def test_fourth_active_export_is_rejected(client: FlaskClient) -> None:
    for _ in range(3):
        order(client)
    response = client.post("/admin/analytics/exports", data=FORM)
    assert response.status_code == 429
    assert "3 of your exports are waiting or running." in response.text


def test_exports_require_an_administrator(app: Flask) -> None:
    anonymous, user = app.test_client(), app.test_client()
    register(user, "bob@example.org")
    assert anonymous.post("/admin/analytics/exports", data=FORM).location == "/login"
    assert user.post("/admin/analytics/exports", data=FORM).status_code == 403


def test_notification_links_to_the_file(app: Flask, client: FlaskClient) -> None:
    order(client)
    ExportRunner(app.extensions["database"], app.extensions["notifications"], lambda *_: None).run(1)
    html = client.get("/notifications").text
    assert (
        '<a href="/api/analytics/exports/1" data-track="notification_followed"><bdi>Your export of 0 events is ready</bdi></a>'
        in html
    )
