"""All pages, also those of errors, have the same navigation and footer. The landing page describes the product."""

from __future__ import annotations

from typing import NoReturn

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.analysis import scores
from app.core import instance
from app.core.errors import Unavailable
from app.web import pages
from app.web.example import example_context
from tests.unit.fleet.test_views import sign_in

ACCOUNT = {"email": "ada@example.org", "password": "correct horse battery"}
NAVIGATION = '<nav aria-label="Main">'


@pytest.mark.parametrize(
    ("path", "status"), [("/nothing", 404), ("/repositories/1", 404), ("/admin/fleet", 403), ("/static/nothing.js", 404)]
)
def test_error_page_keeps_the_navigation_of_the_user(client: FlaskClient, path: str, status: int) -> None:
    client.post("/api/auth/register", json=ACCOUNT)
    page = client.get(path)
    assert page.status_code == status
    assert NAVIGATION in page.text
    assert "Sign out" in page.text
    assert page.headers["Cache-Control"] == "no-store"


def test_visitor_can_sign_in_from_an_error_page(client: FlaskClient) -> None:
    page = client.get("/nothing")
    assert (page.status_code, NAVIGATION in page.text, 'href="/login"' in page.text) == (404, True, True)
    assert "Set-Cookie" not in page.headers


@pytest.mark.parametrize("part", ["inbox", "current_user"])
def test_error_page_is_shown_without_the_stores(client: FlaskClient, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def fail() -> None:
        raise Unavailable("The session store does not answer.")

    client.post("/api/auth/register", json=ACCOUNT)
    monkeypatch.setattr(pages, part, fail)
    page = client.get("/nothing")
    assert page.status_code == 404
    assert NAVIGATION not in page.text


def test_page_of_an_outage_asks_no_store(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def outage() -> NoReturn:
        raise Unavailable("The database does not answer.")

    app.add_url_rule("/outage", "outage", outage)
    client.post("/api/auth/register", json=ACCOUNT)
    asked: list[None] = []
    monkeypatch.setattr(pages, "current_user", lambda: asked.append(None))
    page = client.get("/outage")
    assert (page.status_code, NAVIGATION in page.text, asked) == (503, False, [])


@pytest.mark.parametrize("is_admin", [False, True])
@pytest.mark.parametrize("path", ["/", "/settings", "/nothing"])
def test_only_administrators_see_instances_and_their_pages(app: Flask, client: FlaskClient, path: str, is_admin: bool) -> None:
    sign_in(app, client, is_admin=is_admin)
    page = client.get(path).text
    assert [text in page for text in (instance.current().instance_id, 'href="/admin/fleet"', "/admin/analytics")] == [
        is_admin
    ] * 3


def test_landing_page_shows_the_report_of_a_public_project(client: FlaskClient) -> None:
    report, page = example_context()["report"], client.get("/").text
    assert report["verdict"]["headline"] in page
    assert "Scores of curl" in page
    assert report["formula_version"] == scores.FORMULA_VERSION, "make the example again: see app/web/example.py"


def test_explanations_are_not_only_tooltips(app: Flask, client: FlaskClient) -> None:
    sign_in(app, client, is_admin=True)
    assert "95 % of the responses of the last minute began within this time</dd>" in client.get("/admin/fleet").text


def test_fleet_page_shows_that_an_instance_sheds_sockets(app: Flask, client: FlaskClient) -> None:
    sign_in(app, client, is_admin=True)
    assert "of its sockets to instances with fewer" not in client.get("/admin/fleet").text
    app.extensions["fleet"]._vitals.count_excess_sockets = lambda: 7
    assert "it moves 7 of its sockets to instances with fewer" in client.get("/admin/fleet").text
