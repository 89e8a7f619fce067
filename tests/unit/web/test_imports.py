"""Adding many repositories, over the API and with the forms."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.analysis import network
from app.repositories import service
from app.repositories.found_addresses import MAX_TEXT_LENGTH, NOTHING_FOUND
from tests.unit.repositories.conftest import new_repository

PUBLIC, PRIVATE = "93.184.216.34", "10.0.0.1"
LIST = f"https://{PUBLIC}/a/one\nhttps://{PUBLIC}/a/two\nhello\nhttps://{PRIVATE}/a/three"


def import_text(signed_in: FlaskClient, text: str) -> list[dict[str, Any]]:
    response = signed_in.post("/api/repositories/import", json={"text": text})
    assert response.status_code == 200
    return list(response.get_json()["results"])


def followed(signed_in: FlaskClient) -> set[str]:
    return {entry["url"] for entry in signed_in.get("/api/repositories").get_json()["repositories"]}


def rows(html: str) -> list[str]:
    """The text of each result on the page."""
    return [
        " ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in re.findall(r'<li class="entry">(.*?)</li>', html, re.DOTALL)
    ]


def test_each_address_has_a_result(app: Flask, signed_in: FlaskClient) -> None:
    known = new_repository(app.extensions["database"], 1, url=f"https://{PUBLIC}/a/two")
    one, two, hello, three = import_text(signed_in, LIST)
    assert (one["address"], one["status"], one["reason"]) == (f"https://{PUBLIC}/a/one", "added", None)
    assert one["repository"]["name"] == "a/one"
    assert (two["status"], two["repository"]["id"]) == ("known", known.id)
    assert hello == {"address": "hello", "status": "refused", "repository": None, "reason": NOTHING_FOUND}
    assert three["status"] == "refused"
    assert "private network" in three["reason"]
    assert followed(signed_in) == {f"https://{PUBLIC}/a/one", f"https://{PUBLIC}/a/two"}
    assert [result["status"] for result in import_text(signed_in, LIST)] == ["known", "known", "refused", "refused"]


def test_known_repository_is_not_analysed_again(app: Flask, signed_in: FlaskClient) -> None:
    repository = new_repository(app.extensions["database"], 1, url=f"https://{PUBLIC}/a/two")
    import_text(signed_in, LIST)
    assert signed_in.get(f"/api/repositories/{repository.id}").get_json()["analysis"] is None


def test_limits_of_a_user_count(signed_in: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_LIVE_ANALYSES", 2)
    text = "\n".join(f"https://{PUBLIC}/a/{number}" for number in range(4))
    results = import_text(signed_in, text)
    assert [result["status"] for result in results] == ["added", "added", "refused", "refused"]
    assert "2 of your analyses are waiting" in results[2]["reason"]
    monkeypatch.setattr(service, "MAX_FOLLOWED", 2)
    results = import_text(signed_in, text)
    assert [result["status"] for result in results] == ["known", "known", "refused", "refused"]
    assert "You already follow 2 repositories" in results[2]["reason"]
    assert len(followed(signed_in)) == 2


def test_slow_dns_does_not_hold_up_an_import(signed_in: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that was not checked in time is checked when it is fetched."""
    asked = []
    monkeypatch.setattr(network, "refuse_private", lambda address, _: asked.append(address.host))
    monkeypatch.setattr(service, "MAX_LOOKUP_SECONDS", 0)
    assert [result["status"] for result in import_text(signed_in, "https://a.example/b/c\nhttps://d.example/e/f")] == [
        "added"
    ] * 2
    assert asked == []


@pytest.mark.parametrize("text", ["x" * (MAX_TEXT_LENGTH + 1), 7, None])
def test_invalid_text(signed_in: FlaskClient, text: object) -> None:
    assert signed_in.post("/api/repositories/import", json={"text": text}).status_code == 422


def test_import_requires_sign_in(app: Flask) -> None:
    anonymous = app.test_client()
    assert anonymous.post("/api/repositories/import", json={"text": LIST}).status_code == 401
    for page in ("/import", "/import/addresses"):
        assert anonymous.post(page).location == "/login"


def test_forms_find_select_and_add(app: Flask, signed_in: FlaskClient) -> None:
    new_repository(app.extensions["database"], 1, url=f"https://{PUBLIC}/a/two")
    found = signed_in.post("/import", data={"text": LIST}, content_type="multipart/form-data").text
    one, three = f"https://{PUBLIC}/a/one", f"https://{PRIVATE}/a/three"
    assert rows(found) == [one, "two in your list", f"hello {NOTHING_FOUND} refused", three]
    assert re.findall(r'name="addresses" value="([^"]*)" checked', found) == [one, three]
    assert followed(signed_in) == {f"https://{PUBLIC}/a/two"}
    results = signed_in.post("/import/addresses", data={"addresses": [one]}).text
    assert rows(results) == [f"a/one {one} added"]
    assert followed(signed_in) == {one, f"https://{PUBLIC}/a/two"}


def test_large_text_is_accepted_by_the_form(signed_in: FlaskClient) -> None:
    text = f"{LIST}\n{'größte Wörter ' * 30_000}"
    assert len(rows(signed_in.post("/import", data={"text": text}, content_type="multipart/form-data").text)) == 5
    assert signed_in.post("/import", data={"text": text}).status_code == 413  # many small fields would be slow


def test_forms_explain_what_is_missing(signed_in: FlaskClient) -> None:
    response = signed_in.post("/import", data={"text": "and/or see above, or below"})
    assert response.status_code == 422
    assert "No address of a repository was found." in response.text
    assert "Select at least one repository." in signed_in.post("/import/addresses").text
