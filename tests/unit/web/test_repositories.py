"""The pages of reports and comparisons, with reports of each kind."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import Undefined

from app.analysis import scores
from app.notifications.subscription import Subscription
from app.repositories.service import FollowedRepository, Repositories
from app.web.listing import ListFilter
from app.web.reports import AREAS
from tests.unit.web.samples import AS_OF, EMPTY, judged_report, past, report


class UnknownValue(Undefined):
    """A name that a template writes but nobody defines is an error."""

    def __str__(self) -> str:
        raise AssertionError(self._undefined_message)


@pytest.fixture(autouse=True)
def unknown_values_are_errors(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.jinja_env, "undefined", UnknownValue)


def followed(number: int, found: dict[str, Any] | None, version: int = 2) -> FollowedRepository:
    last = past(0, 50, version) if found else None
    history = [last, past(1, 40, version=1)] if last else []
    return FollowedRepository(number, f"https://example.org/{number}", f"name-{number}", AS_OF, None, last, found, history)


@pytest.fixture
def follow(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the repositories of every user."""

    def replace(*entries: FollowedRepository) -> None:
        by_id = {entry.id: entry for entry in entries}
        service: Repositories = app.extensions["repositories"]
        monkeypatch.setattr(service, "list", lambda _user: list(entries))
        monkeypatch.setattr(service, "get", lambda _user, number: by_id[number])
        monkeypatch.setattr(service, "subscription", lambda _user, _number: Subscription.of(None, {}))
        monkeypatch.setattr(service, "compare", lambda _user, numbers: [by_id[number] for number in numbers])

    return replace


def text(client: FlaskClient, path: str) -> str:
    """Return the text of a page without tags, in one line."""
    response = client.get(path)
    assert response.status_code == 200
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", response.text)).split())


def test_report_begins_with_the_verdict(signed_in: FlaskClient, follow: Any) -> None:
    follow(followed(1, judged_report()))
    page = text(signed_in, "/repositories/1")
    parts = (
        "Many people take part, but the last commit is old.",
        "of 100 overall fair",
        "weak",
        "Last commit",
        "Last release 1.2 ,",
        "Most active author 50.0 %",
        "Scores, weakest first Activity 20 weak",
        "Advice on activity. How the score for activity is computed",
        "Continuity 50 fair",
        "Community 80 strong",
        "Commits per week of the last five years, with a flag for the latest release.",
        "The last 31 weeks have none.",
        "12 commits by 1 bot are left out.",
        "Files that are not counted: 1,200 vendored, 40 documentation.",
        "COPYING not recognised",
    )
    positions = [page.find(part) for part in parts]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert "earlier version of RepoRadar" not in page


def test_many_releases_of_a_week_are_counted(signed_in: FlaskClient, follow: Any) -> None:
    found = judged_report()
    found["releases"]["recent"] = [{"name": f"1.{number}", "at": "2025-05-01T00:00:00Z"} for number in range(7, 0, -1)]
    follow(followed(1, found))
    assert "1.1, 1.2, 1.3, 1.4, 1.5 and 2 more" in text(signed_in, "/repositories/1")


def test_scores_of_older_formulas_are_in_a_table_of_their_own(signed_in: FlaskClient, follow: Any) -> None:
    follow(followed(1, judged_report()))
    page = text(signed_in, "/repositories/1")
    assert "Their scores cannot be compared with those above." in page
    assert page.find("2 October 2025") > page.find("Analyses with earlier formulas") > page.find("Scores as a table")


def test_report_of_an_earlier_version_shows_what_it_has(signed_in: FlaskClient, follow: Any) -> None:
    follow(followed(1, report(), version=1))
    page = text(signed_in, "/repositories/1")
    assert "A new analysis gives the verdict" in page
    for part in ("of 100 overall", "Commits per month.", "Python 900", "Licence MIT", "Activity 50", "12,345"):
        assert part in page
    for part in ("Commits per week", "Who makes the commits", "How the score for activity is computed"):
        assert part not in page


@pytest.mark.parametrize("changes", [{}, {"formula_version": 2, "verdict": {"headline": None, "bands": {}}, "weekly": []}])
def test_report_without_commits_has_a_page(signed_in: FlaskClient, follow: Any, changes: dict[str, Any]) -> None:
    follow(followed(1, EMPTY | changes))
    page = text(signed_in, "/repositories/1")
    assert "This repository has no commits on its default branch" in page
    assert "no overall score" in page
    assert "There are no commits yet." in page


def test_report_of_a_shallow_clone_has_no_shares_of_authors(signed_in: FlaskClient, follow: Any) -> None:
    follow(followed(1, judged_report(is_shallow=True)))
    page = text(signed_in, "/repositories/1")
    assert "The history of this repository is cut off" in page
    assert "Most active author" not in page
    assert "Who makes the commits" not in page


def test_each_score_has_a_definition(signed_in: FlaskClient, follow: Any, client: FlaskClient) -> None:
    follow(followed(1, judged_report()))
    links = re.findall(r'href="(/about/scores)#(\w+)"', signed_in.get("/repositories/1").text)
    assert {anchor for _, anchor in links} == set(AREAS)
    definitions = client.get("/about/scores").text
    for _, anchor in links:
        assert f'id="{anchor}"' in definitions


def test_definitions_name_every_number_of_the_formulas(app: Flask) -> None:
    assert app.jinja_env.loader
    template, _, _ = app.jinja_env.loader.get_source(app.jinja_env, "about_scores.html")
    formulas = [function for name, function in vars(scores).items() if name.endswith("_points")]
    constants = {name for formula in formulas for name in formula.__code__.co_names if name.isupper()}
    assert len(constants) > 15
    assert {name for name in constants if f"formulas.{name}" not in template} == set()


def test_list_by_score_does_not_mix_formulas() -> None:
    entries = [
        replace(followed(number, report()), last_success=past(0, score, version)) if version else followed(number, None)
        for number, score, version in [(1, None, 2), (2, 90, 1), (3, 20, 2), (4, None, 0), (5, 30, 2), (6, 95, 1)]
    ]
    assert [entry.id for entry in ListFilter(order="score").apply(entries)] == [5, 3, 6, 2, 1, 4]


def test_only_differences_are_compared(signed_in: FlaskClient, follow: Any) -> None:
    follow(followed(1, judged_report()), followed(2, judged_report(commits=7)))
    everything, differences = (text(signed_in, f"/compare?ids=1,2{query}") for query in ("", "&differences=1"))
    assert "Contributors 7 7" in everything
    assert "Contributors" not in differences
    for page in (everything, differences):
        assert "Commits 12,345 7" in page
    follow(followed(1, judged_report()), followed(2, judged_report()))
    assert "All values are equal." in text(signed_in, "/compare?ids=1,2&differences=1")


def test_reports_with_different_formulas_are_not_compared(signed_in: FlaskClient, follow: Any) -> None:
    follow(followed(1, report(commits=1), version=1), followed(2, judged_report()), followed(3, judged_report(commits=3)))
    page = text(signed_in, "/compare?ids=1,2,3")
    assert "different formulas cannot be compared" in page
    assert "Commits 12,345 3" in page
    assert "Overall" not in text(signed_in, "/compare?ids=1,2")


def test_repository_without_a_report_is_compared_later(signed_in: FlaskClient, follow: Any) -> None:
    follow(followed(1, None), followed(2, judged_report()))
    assert "Commits – 12,345" in text(signed_in, "/compare?ids=1,2")
