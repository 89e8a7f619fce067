"""Shared reports: who sees them, what they do not tell, how they may be cached, and when they end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.database.engine import Database
from app.repositories import store
from app.repositories.store import Repository
from app.web.badges import COLOURS, badge_of, text_width
from tests.unit.conftest import MakeApp
from tests.unit.repositories.conftest import claimed, new_repository, started
from tests.unit.web.samples import judged_report, past

ADA, BOB = "ada@example.org", "bob@example.org"
PASSWORD = "three calm herons"
FORMS = ("", ".json", "/badge.svg")

SignIn = Callable[[str], FlaskClient]


@pytest.fixture
def sign_in(app: Flask) -> SignIn:
    def register(email: str) -> FlaskClient:
        client = app.test_client()
        assert client.post("/api/auth/register", json={"email": email, "password": PASSWORD}).status_code == 201
        return client

    return register


@pytest.fixture
def ada(sign_in: SignIn) -> FlaskClient:
    return sign_in(ADA)


@pytest.fixture
def repository(app: Flask, ada: FlaskClient) -> Repository:
    return analysed(app.extensions["database"], "https://example.org/pallets/flask")


def analysed(database: Database, url: str) -> Repository:
    """A repository with a report, which the first user follows."""
    repository = new_repository(database, 1, url=url)
    assert database.run(store.succeed, claimed(database, started(database, repository)), judged_report())
    return repository


def share(client: FlaskClient, repository: Repository) -> str:
    """Share a report and return the path of its link."""
    response = client.put(f"/api/repositories/{repository.id}/share")
    assert response.status_code == 200
    url = response.get_json()["url"]
    assert url.startswith("http://localhost/shared/")
    return str(url.removeprefix("http://localhost"))


def statuses(client: FlaskClient, path: str) -> list[int]:
    return [client.get(path + form).status_code for form in FORMS]


def test_everyone_with_the_link_sees_the_report(app: Flask, ada: FlaskClient, repository: Repository) -> None:
    path = share(ada, repository)
    assert share(ada, repository) == path
    anyone = app.test_client()
    page = anyone.get(path)
    assert "Many people take part, but the last commit is old." in page.text
    assert '<meta name="robots" content="noindex, nofollow">' in page.text
    shared = anyone.get(f"{path}.json").get_json()
    assert shared["repository"] == {"name": "flask", "url": repository.url}
    assert shared["report"]["verdict"] == judged_report()["verdict"]
    assert "RepoRadar: 50 of 100, fair" in anyone.get(f"{path}/badge.svg").text
    assert ADA not in page.text


def test_link_ends_at_once(app: Flask, ada: FlaskClient, repository: Repository) -> None:
    path, anyone = share(ada, repository), app.test_client()
    assert statuses(anyone, path) == [200, 200, 200]
    assert ada.delete(f"/api/repositories/{repository.id}/share").status_code == 204
    assert statuses(anyone, path) == [404, 404, 404]
    assert ada.delete(f"/api/repositories/{repository.id}/share").status_code == 204
    assert share(ada, repository) != path


@pytest.mark.parametrize("end", ["unfollow", "delete the account"])
def test_link_ends_with_its_follower(end: str, app: Flask, ada: FlaskClient, repository: Repository, sign_in: SignIn) -> None:
    bob = sign_in(BOB)
    app.extensions["database"].run(store.follow, 2, repository.id)
    paths = share(ada, repository), share(bob, repository)
    if end == "unfollow":
        assert bob.delete(f"/api/repositories/{repository.id}").status_code == 204
    else:
        assert bob.delete("/api/auth/account", json={"password": PASSWORD}).status_code == 204
    assert [app.test_client().get(path).status_code for path in paths] == [200, 404]


def test_audit_log_has_the_begin_and_the_end_of_a_link_once(
    ada: FlaskClient, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "audit")
    for _ in range(2):
        share(ada, repository)
    for _ in range(2):
        ada.delete(f"/api/repositories/{repository.id}/share")
    lines = [record.getMessage() for record in caplog.records if record.name == "audit"]
    assert [line.partition(" ")[0] for line in lines] == ["share.created", "share.ended"]


def test_only_followers_share(app: Flask, repository: Repository, sign_in: SignIn) -> None:
    bob = sign_in(BOB)
    for client, status in ((bob, 404), (app.test_client(), 401)):
        assert client.put(f"/api/repositories/{repository.id}/share").status_code == status
        assert client.delete(f"/api/repositories/{repository.id}/share").status_code == status


def test_shared_pages_use_no_session(ada: FlaskClient, repository: Repository) -> None:
    """Even for a visitor who has one: the response is the same for everyone."""
    path = share(ada, repository)
    for form in FORMS:
        response = ada.get(path + form)
        assert "Set-Cookie" not in response.headers
        assert "Cookie" not in response.headers.get("Vary", "")
    assert "Cookie" in ada.get("/").headers["Vary"]


@pytest.mark.parametrize(
    ("form", "caching", "embedding"),
    [
        ("", "no-cache", "same-origin"),
        (".json", "no-cache", "same-origin"),
        ("/badge.svg", "public, max-age=300", "cross-origin"),
    ],
)
def test_headers(form: str, caching: str, embedding: str, ada: FlaskClient, repository: Repository) -> None:
    headers = ada.get(share(ada, repository) + form).headers
    assert headers["Cache-Control"] == caching
    assert headers["Cross-Origin-Resource-Policy"] == embedding
    assert headers["X-Robots-Tag"] == "noindex, nofollow"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("form", [".json", "/badge.svg"])
def test_unchanged_content_is_not_sent_again(form: str, app: Flask, ada: FlaskClient, repository: Repository) -> None:
    path, anyone = share(ada, repository) + form, app.test_client()
    etag = anyone.get(path).headers["ETag"]

    def again() -> TestResponse:
        return anyone.get(path, headers={"If-None-Match": etag})

    assert (again().status_code, again().data, again().headers["ETag"]) == (304, b"", etag)
    database: Database = app.extensions["database"]
    changed = judged_report() | {"scores": judged_report()["scores"] | {"overall": {"score": 99, "evidence": []}}}
    assert database.run(store.succeed, claimed(database, started(database, repository)), changed)
    assert again().status_code == 200


def test_missing_link_is_not_cached(app: Flask) -> None:
    for form in FORMS:
        response = app.test_client().get(f"/shared/{'0' * 32}{form}")
        assert (response.status_code, response.headers["Cache-Control"]) == (404, "no-cache")


def test_path_of_a_local_repository_stays_private(app: Flask, ada: FlaskClient) -> None:
    repository = analysed(app.extensions["database"], "/srv/secret/place/tool")
    path, anyone = share(ada, repository), app.test_client()
    assert "secret" in ada.get(f"/repositories/{repository.id}").text
    for form in FORMS:
        assert "secret" not in anyone.get(path + form).text
    assert anyone.get(f"{path}.json").get_json()["repository"] == {"name": "tool", "url": None}


def test_without_a_report(app: Flask, ada: FlaskClient) -> None:
    path = share(ada, new_repository(app.extensions["database"], 1))
    anyone = app.test_client()
    assert statuses(anyone, path) == [200, 404, 200]
    assert "No report yet" in anyone.get(path).text
    assert "no report yet" in anyone.get(f"{path}/badge.svg").text


def test_public_url_forms_the_address(make_app: MakeApp) -> None:
    client = make_app(PUBLIC_URL="https://radar.example.org").test_client()
    client.post("/api/auth/register", json={"email": ADA, "password": PASSWORD})
    repository = new_repository(client.application.extensions["database"], 1)
    url = client.put(f"/api/repositories/{repository.id}/share").get_json()["url"]
    assert url.startswith("https://radar.example.org/shared/")
    page = client.get(f"/repositories/{repository.id}").text
    assert f"[![RepoRadar]({url}/badge.svg)]({url})" in page
    assert 'img src="/shared/' in page


def test_forms_share_and_stop(app: Flask, ada: FlaskClient, repository: Repository) -> None:
    page = f"/repositories/{repository.id}"
    assert ada.post(f"{page}/share").location == f"{page}#sharing"
    path = share(ada, repository)
    assert f"http://localhost{path}" in ada.get(page).text
    assert ada.post(f"{page}/share/stop").location == f"{page}?done=unshared"
    assert path not in ada.get(page).text
    assert app.test_client().get(path).status_code == 404


@pytest.mark.parametrize(
    ("overall", "version", "message", "spoken", "band"),
    [
        (72, 2, "strong 72", "72 of 100, strong", "strong"),
        (40, 2, "fair 40", "40 of 100, fair", "fair"),
        (0, 2, "weak 0", "0 of 100, weak", "weak"),
        (72, 1, "72", "72 of 100", None),
        (None, 2, "no score", "no overall score", None),
    ],
)
def test_badge_says(overall: Any, version: int, message: str, spoken: str, band: str | None) -> None:
    badge = badge_of(past(0, overall, version))
    assert (badge.message, badge.title, badge.colour) == (message, f"RepoRadar: {spoken}", COLOURS[band])


def test_badge_is_an_image_in_the_flat_style(ada: FlaskClient, repository: Repository) -> None:
    response = ada.get(share(ada, repository) + "/badge.svg")
    assert response.content_type == "image/svg+xml; charset=utf-8"
    image = ElementTree.fromstring(response.data)  # noqa: S314 # made by us
    assert image.tag == "{http://www.w3.org/2000/svg}svg"
    assert (image.get("height"), image.get("role")) == ("20", "img")
    title = image.find("{*}title")
    assert title is not None
    assert title.text == image.get("aria-label") == "RepoRadar: 50 of 100, fair"
    right = image.findall(".//{*}rect")[2]
    assert int(right.get("x", 0)) + int(right.get("width", 0)) == int(image.get("width", 0))


@pytest.mark.parametrize(("text", "pixels"), [("passing", 41), ("docs", 25), ("pypi", 23)])
def test_texts_have_the_width_of_other_badges(text: str, pixels: int) -> None:
    """The widths are those in the files that shields.io makes."""
    assert text_width(text) == pixels
