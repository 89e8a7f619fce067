"""The page of notifications, without scripts."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.auth import store as accounts
from app.database.engine import Database
from app.http.api import MAX_ID, parse_id
from app.notifications.service import Notifications

HUGE = "9" * 5000  # more digits than int() accepts


@pytest.fixture
def client(app: Flask, signed_in: FlaskClient) -> FlaskClient:
    database: Database = app.extensions["database"]
    ada = database.run(accounts.by_email, "ada@example.org")
    assert ada is not None
    notifications: Notifications = app.extensions["notifications"]
    for number in range(3):
        notifications.send(ada.id, "message", f"news {number}", {})
    return signed_in


def unread(client: FlaskClient) -> int:
    items = client.get("/api/notifications").get_json()["items"]
    return sum(not item["read"] for item in items)


@pytest.mark.parametrize(
    ("up_to", "left"), [("2", 1), ("0", 3), ("", 3), ("-1", 3), ("x", 3), ("\xb2", 3), (HUGE, 0), ("0" * 5000 + "1", 2)]
)
def test_submitted_number_may_be_any_text(client: FlaskClient, up_to: str, left: int) -> None:
    assert client.post("/notifications/read", data={"up_to": up_to}).status_code == 303
    assert unread(client) == left


@pytest.mark.parametrize(("before", "shown"), [("2", 1), ("0", 0), ("", 3), ("x", 3), ("\xb2", 3), (HUGE, 3)])
def test_number_in_the_address_may_be_any_text(client: FlaskClient, before: str, shown: int) -> None:
    response = client.get("/notifications", query_string={"before": before})
    assert (response.status_code, response.text.count("news ")) == (200, shown)


def test_number_in_a_path_may_have_any_length(client: FlaskClient) -> None:
    assert client.get(f"/repositories/{HUGE}").status_code == 404


def test_ids_are_limited_to_the_largest_of_the_database() -> None:
    assert [parse_id(text) for text in ("0", "007", str(MAX_ID), str(MAX_ID + 1), HUGE)] == [0, 7, MAX_ID, MAX_ID, MAX_ID]
