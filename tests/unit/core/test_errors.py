from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import NoReturn

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.exceptions import ImATeapot as Teapot

from app.core import descriptors
from app.core.descriptors import DescriptorShortage
from app.core.errors import Conflict, Invalid, NotFound, NotSignedIn, Problem, TooMany, Unavailable
from tests.unit.conftest import MakeApp

SECRET = "k3vJ8sQ2xZ7m"
MEMBERS = {"type", "title", "status", "detail", "instance_id", "request_id"}

PROBLEMS = {
    "invalid": Invalid.field("email", "This is not an e-mail address."),
    "not-signed-in": NotSignedIn("Sign in first."),
    "forbidden": Problem("This is for administrators.", status=403),
    "not-found": NotFound("There is no such thing."),
    "conflict": Conflict("It is taken."),
    "too-many": TooMany("There were too many attempts.", retry_after=42),
    "unavailable": Unavailable("It does not answer."),
}
STATUS = {
    "invalid": 422,
    "not-signed-in": 401,
    "forbidden": 403,
    "not-found": 404,
    "conflict": 409,
    "too-many": 429,
    "unavailable": 503,
}


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app()

    def problem(name: str) -> NoReturn:
        raise PROBLEMS[name]

    def fail() -> NoReturn:
        raise RuntimeError(f"the password is {SECRET}")

    def need_a_descriptor() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    def own_answer() -> NoReturn:
        raise Teapot(response=Response("its own", status=418))

    for prefix in ("/api", "/page"):
        endpoint = prefix.strip("/")
        app.add_url_rule(f"{prefix}/problem/<name>", f"{endpoint}-problem", problem)
        app.add_url_rule(f"{prefix}/fail", f"{endpoint}-fail", fail)
        app.add_url_rule(f"{prefix}/descriptor", f"{endpoint}-descriptor", need_a_descriptor)
        app.add_url_rule(f"{prefix}/own", f"{endpoint}-own", own_answer)
    return app


@pytest.mark.parametrize("prefix", ["/api", "/page"])
def test_request_that_lacks_a_file_descriptor_is_no_bug(
    client: FlaskClient, prefix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortage = DescriptorShortage()
    monkeypatch.setattr(descriptors, "shortage", shortage)
    response = client.get(f"{prefix}/descriptor")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert "no file descriptors left" in response.text
    assert "Traceback" not in caplog.text
    assert shortage.is_current  # also if the shortage ends before the next heartbeat
    assert caplog.text.count("no file descriptors left: Too many open files") == 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_api_errors_are_problem_details(client: FlaskClient, name: str) -> None:
    response = client.get(f"/api/problem/{name}", headers={"X-Request-Id": "request-7"})
    assert response.status_code == STATUS[name]
    assert response.content_type == "application/problem+json"
    assert response.json is not None
    assert set(response.json) - {"errors"} == MEMBERS
    assert response.json["type"] == "about:blank"
    assert response.json["title"] == HTTPStatus(STATUS[name]).phrase
    assert response.json["status"] == STATUS[name]
    assert response.json["detail"] == PROBLEMS[name].detail
    assert (response.json["instance_id"], response.json["request_id"]) == ("instance-1", "request-7")


@pytest.mark.parametrize("name", PROBLEMS)
def test_page_errors_are_html(client: FlaskClient, name: str) -> None:
    response = client.get(f"/page/problem/{name}", headers={"X-Request-Id": "request-7"})
    assert response.status_code == STATUS[name]
    assert response.content_type == "text/html; charset=utf-8"
    assert PROBLEMS[name].detail in response.text
    assert "request-7" in response.text


def test_invalid_input_names_the_field(client: FlaskClient) -> None:
    response = client.get("/api/problem/invalid")
    assert response.json is not None
    assert response.json["errors"] == [{"field": "email", "message": "This is not an e-mail address."}]


def test_only_invalid_input_has_errors(client: FlaskClient) -> None:
    response = client.get("/api/problem/not-found")
    assert response.json is not None
    assert "errors" not in response.json


@pytest.mark.parametrize(("name", "seconds"), [("too-many", "42"), ("unavailable", "2")])
@pytest.mark.parametrize("prefix", ["/api", "/page"])
def test_retry_after_is_sent(client: FlaskClient, prefix: str, name: str, seconds: str) -> None:
    assert client.get(f"{prefix}/problem/{name}").headers["Retry-After"] == seconds


def test_method_not_allowed_lists_the_allowed_methods(client: FlaskClient) -> None:
    response = client.put("/api/auth/login")
    assert response.status_code == 405
    assert response.content_type == "application/problem+json"
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


@pytest.mark.parametrize("prefix", ["/api", "/page"])
def test_unexpected_error_shows_only_the_request_id(client: FlaskClient, prefix: str) -> None:
    response = client.get(f"{prefix}/fail", headers={"X-Request-Id": "request-7"})
    assert response.status_code == 500
    assert "request-7" in response.text
    for detail in (SECRET, "RuntimeError", "Traceback", "test_errors"):
        assert detail not in response.text


def test_unexpected_error_is_logged_with_traceback(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/api/fail")
    (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert error.exc_info
    assert SECRET in str(error.exc_info[1])


def test_store_that_fails_after_the_view_is_not_logged_as_a_bug(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter([Unavailable("Redis does not answer.")])

    def fail_once(*_: object) -> None:
        if error := next(outcomes, None):
            raise error

    monkeypatch.setattr(app.session_interface, "save_session", fail_once)
    assert client.get("/health/live").status_code == 503
    assert [record.levelno for record in caplog.records if record.exc_info] == []


def test_rejected_request_is_not_logged_as_error(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        client.get("/api/problem/not-found")
        assert caplog.records == []
        client.get("/api/problem/unavailable")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_response_inside_an_exception_is_unchanged(client: FlaskClient) -> None:
    response = client.get("/api/own")
    assert (response.status_code, response.text) == (418, "its own")
