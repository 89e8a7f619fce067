"""Channels over the API and in the settings, and the private feed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core.callbacks import do_nothing
from app.notifications import webhook
from app.notifications.service import Notifications
from tests.unit.conftest import MakeApp

API = "/api/notifications/channels"
URL = "https://hooks.example.org/services/1"
ATOM = "{http://www.w3.org/2005/Atom}"
SITE = "https://radar.example.org"
ADA = 1


@pytest.fixture(autouse=True)
def no_dns_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "refuse_private", do_nothing)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(PUBLIC_URL=SITE, SMTP_URL="smtps://mail.example.org")


@pytest.fixture
def notifications(app: Flask) -> Notifications:
    found: Notifications = app.extensions["notifications"]
    return found


def feed_path(signed_in: FlaskClient) -> str:
    url: str = signed_in.post(API, json={"kind": "feed"}).get_json()["url"]
    return url.removeprefix(SITE)


def test_webhook_is_managed_over_the_api(signed_in: FlaskClient, notifications: Notifications) -> None:
    response = signed_in.post(API, json={"kind": "webhook", "url": URL})
    created = response.get_json()
    secret = created.pop("secret")
    assert (response.status_code, created["kind"], created["url"], created["disabled_at"]) == (201, "webhook", URL, None)
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    assert signed_in.get(API).get_json() == {"channels": [created]}
    one = f"{API}/{created['id']}"
    notifications.send(ADA, "message", "Hello", {})
    waiting = {"attempted_at": None, "attempt": 0, "status": None, "error": None, "finished_at": None}
    response = signed_in.post(f"{one}/test")
    assert (response.status_code, response.get_json()) == (202, {"delivery": {"notification_seq": None, **waiting}})
    assert signed_in.get(f"{one}/deliveries").get_json() == {
        "deliveries": [{"notification_seq": None, **waiting}, {"notification_seq": 1, **waiting}]
    }
    assert signed_in.delete(one).status_code == 204
    assert [signed_in.delete(one).status_code, signed_in.post(f"{one}/test").status_code] == [404, 404]
    assert signed_in.get(f"{one}/deliveries").status_code == 404


@pytest.mark.parametrize(
    "body", [{"kind": "webhook"}, {"kind": "webhook", "url": "http://example.org/"}, {"kind": "sms"}, {"url": URL}, {}]
)
def test_invalid_channels_are_refused(signed_in: FlaskClient, body: object) -> None:
    assert signed_in.post(API, json=body).status_code == 422
    assert signed_in.get(API).get_json() == {"channels": []}


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "https://[::1]/", "https://10.1.2.3/", "https://169.254.169.254/latest"])
def test_webhooks_to_private_networks_are_refused(signed_in: FlaskClient, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    response = signed_in.post(API, json={"kind": "webhook", "url": url})
    assert (response.status_code, response.get_json()["errors"][0]["field"]) == (422, "url")


def test_channels_need_a_session(app: Flask) -> None:
    stranger = app.test_client()
    assert [stranger.get(API).status_code, stranger.post(API, json={"kind": "feed"}).status_code] == [401, 401]
    assert stranger.post("/settings/channels", data={"kind": "feed"}).location.startswith("/login")


def test_channels_are_managed_without_scripts(signed_in: FlaskClient, notifications: Notifications) -> None:
    response = signed_in.post("/settings/channels", data={"kind": "webhook", "url": "ftp://example.org"})
    assert (response.status_code, "must begin with https://" in response.text) == (422, True)
    page = signed_in.post("/settings/channels", data={"kind": "webhook", "url": URL}).text
    assert re.search(r'value="whsec_[^"]+" readonly', page)
    page = signed_in.post("/settings/channels", data={"kind": "feed"}).text
    assert re.search(rf'value="{SITE}/feeds/[^"]{{43}}.atom" readonly', page)
    assert signed_in.post("/settings/channels", data={"kind": "email"}).location == "/settings?done=channel#channels"
    notifications.send(ADA, "message", "Hello", {})
    assert signed_in.post("/settings/channels/1/test").location == "/settings?done=channel-test#channels"
    page = signed_in.get("/settings").text
    assert [text in page for text in ("Webhook to <bdi>hooks.example.org", "E-mail to <bdi>ada@", "Atom feed", "whsec_")] == [
        *[True] * 3,
        False,
    ]
    assert page.count("Waiting") == 3
    for number in (1, 1, 2, 3):
        assert signed_in.post(f"/settings/channels/{number}/delete").location == "/settings?done=channel-deleted#channels"
    assert signed_in.get(API).get_json() == {"channels": []}


def test_opening_the_settings_marks_notifications_about_channels_as_read(
    signed_in: FlaskClient, notifications: Notifications
) -> None:
    notifications.send(ADA, "channel.disabled", "The webhook was disabled", {"channel_id": 99})
    notifications.send(ADA, "message", "Hello", {})
    assert 'href="/settings#channels"' in signed_in.get("/notifications").text
    signed_in.get("/settings")
    assert [item["read"] for item in signed_in.get("/api/notifications").get_json()["items"]] == [True, False]


def test_email_is_offered_only_with_a_mail_server(make_app: MakeApp) -> None:
    client = make_app().test_client()
    client.post("/api/auth/register", json={"email": "ada@example.org", "password": "three calm herons"})
    assert ("Add e-mail" in (page := client.get("/settings").text), "Add Atom feed" in page) == (False, True)
    assert client.post(API, json={"kind": "email"}).status_code == 422


def test_feed_is_valid_atom(app: Flask, signed_in: FlaskClient, notifications: Notifications) -> None:
    path = feed_path(signed_in)
    notifications.send(ADA, "release.found", "<b>flask</b> & friends \x00\x1b released 3.1", {"repository_id": 7})
    notifications.send(ADA, "analysis.failed", "Analysis failed", {"repository_id": 7, "error": "No such repository."})
    response = app.test_client().get(path)  # a feed reader has no session
    assert (response.status_code, response.mimetype) == (200, "application/atom+xml")
    assert "Set-Cookie" not in response.headers
    root = ElementTree.fromstring(response.data)  # noqa: S314 - our own document
    assert root.tag == f"{ATOM}feed"
    for element, count in (("id", 1), ("title", 1), ("updated", 1), ("author", 1), ("entry", 2)):
        assert len(root.findall(ATOM + element)) == count
    links = {link.attrib["rel"]: link.attrib["href"] for link in root.findall(f"{ATOM}link")}
    assert links == {"self": SITE + path, "alternate": f"{SITE}/notifications"}
    newest, oldest = root.findall(f"{ATOM}entry")
    assert oldest.findtext(f"{ATOM}title") == "<b>flask</b> & friends \ufffd\ufffd released 3.1"
    assert newest.findtext(f"{ATOM}content") == "No such repository."
    for entry in (newest, oldest):
        timestamp = entry.findtext(f"{ATOM}updated") or ""
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", timestamp)
        link = entry.find(f"{ATOM}link")
        assert link is not None
        assert link.attrib == {"rel": "alternate", "href": f"{SITE}/repositories/7"}
    ids = [element.text or "" for element in root.iter(f"{ATOM}id")]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", one) for one in ids)
    assert root.findtext(f"{ATOM}updated") == newest.findtext(f"{ATOM}updated")


def test_feed_has_an_etag_that_changes_with_its_entries(app: Flask, signed_in: FlaskClient, notifications: Notifications) -> None:
    path = feed_path(signed_in)
    first = signed_in.get(path)
    etag = {"If-None-Match": first.headers["ETag"]}
    response = signed_in.get(path, headers=etag)
    assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert "private" in first.headers["Cache-Control"]
    notifications.send(ADA, "message", "Hello", {})
    assert signed_in.get(path, headers=etag).status_code == 200


def test_deleted_feed_and_invented_addresses_do_not_exist(signed_in: FlaskClient) -> None:
    path = feed_path(signed_in)
    (channel,) = signed_in.get(API).get_json()["channels"]
    assert channel["url"] is None
    assert signed_in.post(f"{API}/{channel['id']}/test").status_code == 409
    assert signed_in.get(path).status_code == 200
    assert signed_in.delete(f"{API}/{channel['id']}").status_code == 204
    assert [signed_in.get(one).status_code for one in (path, "/feeds/x.atom", "/feeds/%ff.atom", "/feeds/.atom")] == [404] * 4


def test_feed_of_a_site_without_a_public_address_has_that_of_the_request(make_app: MakeApp) -> None:
    client = make_app().test_client()
    client.post("/api/auth/register", json={"email": "ada@example.org", "password": "three calm herons"})
    assert client.post(API, json={"kind": "feed"}).get_json()["url"].startswith("http://localhost/feeds/")
