"""The part of a page that orders exports and lists them, without a script."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.analytics.exports import store
from app.analytics.exports.jobs import Exporter
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
    """The page afterwards."""
    response = client.post("/admin/analytics/exports", data=FORM)
    assert response.status_code == 303
    assert response.location == "/admin/analytics?done=export#exports"
    return shown(client)


def shown(client: FlaskClient) -> str:
    response = client.get("/admin/analytics/exports")
    assert response.status_code == 200
    return re.sub(r"\s+", " ", response.text)


def test_an_order_counts_its_last_day_in(client: FlaskClient, database: Database) -> None:
    html = order(client)
    assert "2 January 2026 to 3 January 2026" in html
    assert "Waiting for its turn" in html
    (export,) = database.run(store.of_user, 1)
    assert (export.until - export.since).days == 2


def test_progress_and_the_end_are_shown(app: Flask, client: FlaskClient, database: Database) -> None:
    order(client)
    claim = database.run(store.claim, 1, "mine")
    assert isinstance(claim, store.ExportLease)
    database.run(store.note, claim, progress=42, rows=12345)
    html = shown(client)
    assert 'data-export="1"' in html
    assert "12,345 events written" in html
    assert "<span data-percent>42</span> %" in html
    database.run(store.succeed, claim, 12346)
    html = shown(client)
    assert 'data-export="1"' not in html
    assert "12,346 events, ready" in html
    assert 'href="/api/analytics/exports/1"' in html


def test_a_failure_is_shown_with_its_reason(client: FlaskClient, database: Database) -> None:
    order(client)
    claim = database.run(store.claim, 1, "mine")
    assert isinstance(claim, store.ExportLease)
    database.run(store.fail, claim, "It went <wrong>.")
    html = shown(client)
    assert "Failed: It went &lt;wrong&gt;." in html
    assert "/api/analytics/exports/1" not in html


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"first_day": "2026-01-04"}, "The last day is before the first one."),
        ({"first_day": ""}, "Please choose a day."),
        ({"last_day": "2026-02-30"}, "Please choose a day."),
        ({"first_day": "0001-01-01"}, "Please choose a day."),
    ],
)
def test_a_refused_order_comes_back_as_it_was(client: FlaskClient, changes: dict[str, str], sentence: str) -> None:
    response = client.post("/admin/analytics/exports", data=FORM | changes)
    assert response.status_code == 422
    assert sentence in response.text
    assert all(f'value="{text}"' in response.text for text in (FORM | changes).values() if text)


def test_the_fourth_at_once_is_refused(client: FlaskClient) -> None:
    for _ in range(3):
        order(client)
    response = client.post("/admin/analytics/exports", data=FORM)
    assert response.status_code == 429
    assert "3 exports of yours are waiting or running." in response.text


def test_it_is_for_administrators(app: Flask) -> None:
    stranger, user = app.test_client(), app.test_client()
    register(user, "bob@example.org")
    assert stranger.post("/admin/analytics/exports", data=FORM).location == "/login"
    assert user.post("/admin/analytics/exports", data=FORM).status_code == 403


def test_the_notification_leads_to_the_file(app: Flask, client: FlaskClient) -> None:
    order(client)
    Exporter(app.extensions["database"], app.extensions["notifications"], lambda *_: None).run(1)
    html = client.get("/notifications").text
    assert (
        '<a href="/api/analytics/exports/1" data-track="notification_followed"><bdi>Your export of 0 events is ready</bdi></a>'
        in html
    )
