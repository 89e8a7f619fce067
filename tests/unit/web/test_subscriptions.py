"""Which notifications a user gets, over the API and with the forms; opening a page marks its notifications as read."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core.messages import Message
from app.database.engine import Database, DatabaseUnavailable
from app.notifications import store as inbox
from app.notifications.service import TYPES, Notifications
from app.repositories import store
from app.repositories.store import Repository
from app.web import pages
from tests.unit.repositories.conftest import new_repository

ADA = 1
ON = dict.fromkeys(TYPES, True)
EVERYTHING = {"types": ON, "inherited": True}
NO_RELEASES = {"types": {**ON, "release.found": False}, "inherited": False}
DEFAULT = "/api/notifications/subscription"


@pytest.fixture
def repository(app: Flask, signed_in: FlaskClient) -> Repository:
    return new_repository(app.extensions["database"], ADA)


def checked(signed_in: FlaskClient, page: str) -> set[str]:
    return set(re.findall(r'name="types" value="([a-z.]+)" checked', signed_in.get(page).text))


def test_default_and_repository_are_switched_over_the_api(signed_in: FlaskClient, repository: Repository) -> None:
    own = f"/api/repositories/{repository.id}/subscription"
    assert signed_in.get(DEFAULT).get_json() == signed_in.get(own).get_json() == EVERYTHING
    assert signed_in.put(DEFAULT, json={"types": {"release.found": False}}).get_json() == NO_RELEASES
    assert signed_in.get(own).get_json() == {**NO_RELEASES, "inherited": True}
    assert signed_in.put(own, json={"types": ON}).get_json() == {"types": ON, "inherited": False}
    assert signed_in.put(DEFAULT, json={"inherited": True}).get_json() == EVERYTHING
    assert signed_in.get(own).get_json() == {"types": ON, "inherited": False}
    assert signed_in.put(own, json={"inherited": True}).get_json() == signed_in.get(own).get_json() == EVERYTHING


@pytest.mark.parametrize(
    "body", [{"types": {"message": False}}, {"types": {"x": True}}, {"types": {"score.changed": "no"}}, {"x": 1}]
)
def test_other_types_are_refused(signed_in: FlaskClient, repository: Repository, body: object) -> None:
    for path in (DEFAULT, f"/api/repositories/{repository.id}/subscription"):
        assert signed_in.put(path, json=body).status_code == 422
        assert signed_in.get(path).get_json() == EVERYTHING


def test_subscription_of_a_repository_that_is_not_followed_is_not_found(app: Flask, signed_in: FlaskClient) -> None:
    other = new_repository(app.extensions["database"])
    path = f"/api/repositories/{other.id}/subscription"
    assert (signed_in.get(path).status_code, signed_in.put(path, json={"types": {}}).status_code) == (404, 404)
    assert signed_in.post(f"/repositories/{other.id}/subscription", data={}).status_code == 404


def test_forms_switch_types_without_scripts(signed_in: FlaskClient, repository: Repository) -> None:
    page = f"/repositories/{repository.id}"
    assert checked(signed_in, "/settings") == checked(signed_in, page) == set(TYPES)
    assert signed_in.post("/settings/notifications", data={"types": ["score.changed", "x"]}).status_code == 303
    assert checked(signed_in, "/settings") == checked(signed_in, page) == {"score.changed"}
    assert signed_in.post(f"{page}/subscription", data={"types": ["release.found"]}).status_code == 303
    assert (checked(signed_in, "/settings"), checked(signed_in, page)) == ({"score.changed"}, {"release.found"})
    assert signed_in.post(f"{page}/subscription", data={"inherit": "true"}).status_code == 303
    assert checked(signed_in, page) == {"score.changed"}
    assert signed_in.post("/settings/notifications", data={}).status_code == 303
    assert checked(signed_in, page) == set()


def test_opening_a_repository_marks_its_notifications_as_read(
    app: Flask, signed_in: FlaskClient, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifications: Notifications = app.extensions["notifications"]
    published: list[Message] = []
    monkeypatch.setattr(notifications, "_publish", published.extend)
    database: Database = app.extensions["database"]
    other = new_repository(database, ADA, url="https://example.org/pallets/click")
    for about in (other, repository, other, repository):
        notifications.send(ADA, "release.found", "news", {"repository_id": about.id})
    published.clear()
    page = f"/repositories/{repository.id}"
    for headers in ({"Sec-Fetch-Dest": "empty"}, {"Sec-Purpose": "prefetch"}):
        assert 'data-also-read=""' in signed_in.get(page, headers=headers).text
    assert published == []
    text = signed_in.get(page).text
    assert ('data-read-up-to="0" data-also-read="2 4"' in text, "<span>2</span>" in text) == (True, True)
    assert [(one.kind, one.data["read"]) for one in published] == [("read", {"up_to": 0, "also_read": [2, 4]})]
    items = signed_in.get("/api/notifications").get_json()["items"]
    assert [item["read"] for item in items] == [False, True, False, True]
    signed_in.get(page)
    assert len(published) == 1
    database.run(store.unfollow, ADA, other.id)
    assert signed_in.get(f"/repositories/{other.id}").status_code == 404
    assert all(item["read"] for item in signed_in.get("/api/notifications").get_json()["items"])


def test_repository_can_be_opened_while_the_database_is_read_only(
    app: Flask, signed_in: FlaskClient, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.extensions["notifications"].send(ADA, "release.found", "news", {"repository_id": repository.id})

    def refuse(*_: object) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(inbox, "mark_read", refuse)
    assert signed_in.get(f"/repositories/{repository.id}").status_code == 200


def test_notice_of_a_saved_choice_exists() -> None:
    assert "subscription" in pages.NOTICES
