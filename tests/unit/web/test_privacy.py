from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.analytics.catalogue import DECLARED_EVENTS
from app.core.errors import Unavailable
from tests.unit.conftest import MakeApp

MAX_SCRIPT_BYTES = 1024
GPC = {"Sec-GPC": "1"}
SCRIPT = "/analytics.js"
COUNTED, NOT_COUNTED = "You are counted.", "You are not counted, because"


def text(client: FlaskClient, path: str, **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == 200
    return unescape(response.text)


def register(client: FlaskClient) -> None:
    assert (
        client.post("/api/auth/register", json={"email": "ada@example.org", "password": "three calm herons"}).status_code == 201
    )


def fail(app: Flask, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make these methods of the analytics service raise Unavailable."""

    def unavailable(*_args: Any, **_kwargs: Any) -> None:
        raise Unavailable("The database does not answer.", retry_after=7)

    for name in names:
        monkeypatch.setattr(app.extensions["analytics"], name, unavailable)


def test_script_is_small(client: FlaskClient) -> None:
    with client.get(f"/static{SCRIPT}") as response:
        assert response.mimetype == "text/javascript"
        assert 0 < len(response.data) <= MAX_SCRIPT_BYTES


@pytest.mark.parametrize("path", ["/privacy", "/settings"])
def test_declared_events_are_listed(client: FlaskClient, path: str) -> None:
    register(client)
    page = text(client, path)
    for kind in DECLARED_EVENTS:
        assert kind.label in page
        for name, what in kind.properties.items():
            assert f"<code>{name}</code>: {what}" in page


@pytest.mark.parametrize(("setting", "words"), [({}, "after 365 days"), ({"ANALYTICS_RETENTION_DAYS": "30"}, "after 30 days")])
def test_retention_period_is_shown(make_app: MakeApp, setting: dict[str, str], words: str) -> None:
    assert words in text(make_app(**setting).test_client(), "/privacy")


def test_every_page_links_to_the_privacy_page(client: FlaskClient) -> None:
    for path in ("/", "/login", "/register", "/nowhere"):
        assert 'href="/privacy"' in client.get(path).text


@pytest.mark.parametrize("here", ["/privacy", "/settings"])
def test_account_opts_out_and_in(client: FlaskClient, here: str) -> None:
    register(client)
    assert COUNTED in text(client, here)
    response = client.post("/privacy/opt-out", data={"here": f"web.{here[1:]}"})
    assert (response.status_code, response.location) == (303, f"{here}?done=uncounted")
    assert f"{NOT_COUNTED} your account has opted out." in text(client, here)
    response = client.post("/privacy/opt-in", data={"here": f"web.{here[1:]}"})
    assert (response.status_code, response.location) == (303, f"{here}?done=counted")
    assert COUNTED in text(client, here)


def test_browser_opts_out_and_in(client: FlaskClient) -> None:
    client.post("/privacy/opt-out")
    page = text(client, "/privacy")
    assert f"{NOT_COUNTED} this browser has opted out." in page
    assert "Nothing that you did after <time" in page
    client.post("/privacy/opt-in")
    assert COUNTED in text(client, "/privacy")


def test_global_privacy_control_is_an_opt_out(client: FlaskClient) -> None:
    page = text(client, "/privacy", **GPC)
    assert f"{NOT_COUNTED} your browser asks for that." in page
    assert "Count me again" not in page
    assert COUNTED in text(client, "/privacy", **{"Sec-GPC": "0"})


def test_opt_in_with_global_privacy_control_has_no_effect(client: FlaskClient) -> None:
    client.post("/privacy/opt-out")
    assert "disabled" in text(client, "/privacy", **GPC)
    assert client.post("/privacy/opt-in", headers=GPC).location == "/privacy?done=uncounted-still"


@pytest.mark.parametrize("here", ["", "https://example.org/", "web.home", "web.logout"])
def test_redirect_goes_only_to_privacy_or_settings(client: FlaskClient, here: str) -> None:
    assert client.post("/privacy/opt-out", data={"here": here}).location == "/privacy?done=uncounted"


def test_erasure_reports_count_and_limit(app: Flask, client: FlaskClient) -> None:
    register(client)
    event = {"name": "clicked", "category": "test"}
    assert client.post("/api/analytics/events", json={"events": [event, event]}).json["accepted"] == 2  # type: ignore[index]
    response = client.post("/privacy/erase")
    assert response.status_code == 200
    assert "2 events erased. What was stored before" in response.text
    assert "00:00 UTC of people who were not signed in" in response.text
    assert "0 events erased." in client.post("/privacy/erase").text


@pytest.mark.parametrize(
    ("path", "does", "words"),
    [
        ("/privacy/opt-out", "opt_out", "Your choice was not saved. Your previous choice is still in effect."),
        ("/privacy/opt-in", "opt_in", "Your choice was not saved. Your previous choice is still in effect."),
        ("/privacy/erase", "erase", "Nothing was erased."),
    ],
)
def test_failed_change_is_reported(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str, does: str, words: str
) -> None:
    fail(app, monkeypatch, does)
    response = client.post(path)
    assert response.status_code == 503
    assert words in response.text
    assert response.headers["Retry-After"] == "7"
    assert "Set-Cookie" not in response.headers
    assert SCRIPT not in response.text


@pytest.mark.parametrize("path", ["/privacy", "/settings"])
def test_unreadable_consent_is_reported(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    register(client)
    fail(app, monkeypatch, "opt_out_status", "has_consent")
    page = text(client, path)
    assert "Whether you are counted can’t be read right now." in page
    assert "Don’t count me" in page
    assert SCRIPT not in page


def test_pages_load_the_script_with_their_path(client: FlaskClient) -> None:
    assert '<body data-path="/">' in text(client, "/")
    register(client)
    for path in ("/", "/settings", "/compare", "/notifications", "/privacy"):
        page = text(client, f"{path}?x=1")
        assert SCRIPT in page
        assert f'<body data-path="{path}">' in page


@pytest.mark.parametrize("path", ["/login", "/register", "/nowhere"])
def test_pages_that_do_not_read_the_session_do_not_load_the_script(client: FlaskClient, path: str) -> None:
    page = client.get(path).text
    assert "<body>" in page
    assert SCRIPT not in page


@pytest.mark.parametrize("opted_out", ["account", "browser", "gpc"])
def test_script_is_not_loaded_after_an_opt_out(app: Flask, client: FlaskClient, opted_out: str) -> None:
    if opted_out == "account":
        register(client)
    if opted_out != "gpc":
        client.post("/privacy/opt-out")
    if opted_out == "account":
        client.delete_cookie("analytics")
    for path in ("/", "/privacy"):
        page = text(client, path, **(GPC if opted_out == "gpc" else {}))
        assert "<body>" in page
        assert SCRIPT not in page
