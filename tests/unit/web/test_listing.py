"""Which repositories the list shows, in which order, and their tags."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.database.engine import Database
from app.repositories.service import FollowedRepository, PastAnalysis
from app.repositories.tags import MAX_TAG_LENGTH, MAX_TAGS
from app.web.listing import BEST_FIRST, WEAKEST_FIRST, ListFilter, tags_of
from tests.unit.repositories.conftest import new_repository
from tests.unit.web.samples import AS_OF, past


def entry(name: str, last: PastAnalysis | None, *tags: str) -> FollowedRepository:
    return FollowedRepository(ord(name), f"https://example.org/{name}", name, AS_OF, None, last, tags=list(tags))


def scored(overall: int | None, activity: int | None, version: int = 2) -> PastAnalysis:
    last = past(0, overall, version)
    return replace(last, scores=last.scores | {"activity": activity})


ENTRIES = [
    entry("a", scored(80, 10), "web"),
    entry("b", scored(50, None), "cli", "web"),
    entry("c", scored(20, 90)),
    entry("d", scored(99, 50, version=1), "web"),
    entry("e", None, "cli"),
    entry("f", scored(None, 30)),
]


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (ListFilter(), "fedcba"),
        (ListFilter(order="unknown"), "fedcba"),
        (ListFilter(order="name"), "abcdef"),
        (ListFilter(order="score"), "abcdfe"),
        (ListFilter(order="weakest"), "cbadfe"),
        (ListFilter(order="activity"), "cfadbe"),
        (ListFilter(order="weakest-activity"), "afcdbe"),
        (ListFilter(tag="web", order="name"), "abd"),
        (ListFilter(band="strong", order="name"), "a"),
        (ListFilter(band="weak", order="name"), "c"),
        (ListFilter("example b", "web", "fair"), "b"),
        (ListFilter(tag="none"), ""),
    ],
)
def test_filter_and_order(chosen: ListFilter, names: str) -> None:
    assert "".join(one.name for one in chosen.apply(ENTRIES)) == names


def test_each_score_can_be_sorted_by_and_is_shown() -> None:
    assert len(BEST_FIRST) == len(WEAKEST_FIRST) == 7
    assert [ListFilter(order=order).score for order in ("added", "score", "weakest", "releases", "weakest-releases")] == [
        *["overall"] * 3,
        *["releases"] * 2,
    ]
    assert tags_of(ENTRIES) == ["cli", "web"]


@pytest.fixture
def ids(app: Flask, signed_in: FlaskClient) -> list[int]:
    """Two repositories of Ada, and one that nobody follows."""
    database: Database = app.extensions["database"]
    followers = {"a": [1], "b": [1], "c": []}
    return [new_repository(database, *users, url=f"https://example.org/{name}").id for name, users in followers.items()]


def tags(signed_in: FlaskClient) -> dict[str, list[str]]:
    return {found["name"]: found["tags"] for found in signed_in.get("/api/repositories").get_json()["repositories"]}


def test_tags_are_replaced_over_the_api(signed_in: FlaskClient, ids: list[int]) -> None:
    response = signed_in.put(f"/api/repositories/{ids[0]}/tags", json={"tags": ["Web", " two  words ", "web"]})
    assert response.get_json() == {"tags": ["two words", "web"]}
    assert tags(signed_in) == {"a": ["two words", "web"], "b": []}
    assert signed_in.get(f"/api/repositories/{ids[0]}").get_json()["tags"] == ["two words", "web"]
    assert signed_in.put(f"/api/repositories/{ids[0]}/tags", json={"tags": []}).get_json() == {"tags": []}
    assert signed_in.put(f"/api/repositories/{ids[2]}/tags", json={"tags": ["x"]}).status_code == 404


@pytest.mark.parametrize(
    "wrong", [["x" * (MAX_TAG_LENGTH + 1)], [" "], ["a,b"], ["a\u202e"], [str(n) for n in range(MAX_TAGS + 1)]]
)
def test_invalid_tags(wrong: list[str], signed_in: FlaskClient, ids: list[int]) -> None:
    response = signed_in.put(f"/api/repositories/{ids[0]}/tags", json={"tags": wrong})
    assert (response.status_code, response.get_json()["errors"][0]["field"]) == (422, "tags")
    assert tags(signed_in) == {"a": [], "b": []}


def test_selected_repositories_get_a_tag(signed_in: FlaskClient, ids: list[int]) -> None:
    signed_in.put(f"/api/repositories/{ids[0]}/tags", json={"tags": ["web"]})
    response = signed_in.post("/tags?next=/?sort=name", data={"ids": ids, "tag": "New"})
    assert (response.status_code, response.location) == (303, "/?sort=name")
    assert tags(signed_in) == {"a": ["new", "web"], "b": ["new"]}
    assert signed_in.post("/tags?next=//evil.example", data={"ids": ["9" * 30, "x"], "tag": "other"}).location == "/"
    assert "A tag has" in signed_in.post("/tags", data={"ids": ids, "tag": ""}).text
    assert tags(signed_in) == {"a": ["new", "web"], "b": ["new"]}


def test_tags_of_two_users_are_separate(app: Flask, signed_in: FlaskClient, ids: list[int]) -> None:
    bob = app.test_client()
    bob.post("/api/auth/register", json={"email": "bob@example.org", "password": "three calm herons"})
    new_repository(app.extensions["database"], 2, url="https://example.org/a")
    signed_in.put(f"/api/repositories/{ids[0]}/tags", json={"tags": ["mine"]})
    assert tags(bob) == {"a": []}


def test_pages_show_tags(signed_in: FlaskClient, ids: list[int]) -> None:
    page = f"/repositories/{ids[0]}"
    assert signed_in.post(f"{page}/tags", data={"tags": "Web, two words,"}).location == f"{page}?done=tags"
    assert 'value="two words, web"' in signed_in.get(page).text
    wrong = signed_in.post(f"{page}/tags", data={"tags": "x" * 31})
    assert wrong.status_code == 422
    assert "x" * 31 in wrong.text
    listed = signed_in.get("/?tag=web").text
    assert re.findall(r'data-repository="(\d+)"', listed) == [str(ids[0])]
    assert "<option selected>web</option>" in listed
    assert "has the tag" in signed_in.get("/?tag=nothing&band=weak").text
