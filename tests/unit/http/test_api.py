from __future__ import annotations

import json
import time
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from pydantic import BaseModel
from werkzeug.test import TestResponse

from app.http.api import MAX_BODY_BYTES, MAX_MEMBERS, Body, json_response, no_content, operation
from tests.unit.conftest import MakeApp


class Thing(Body):
    name: str
    size: int = 1


class Sizes(Body):
    sizes: list[int]


class Found(BaseModel):
    """A test response."""

    name: str


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app()

    @app.post("/api/things")
    @operation("Make a thing", body=Thing, returns={201: Found})
    def make_thing(body: Thing) -> Response:
        return json_response(Found(name=body.name), 201)

    @app.post("/api/sizes")
    @operation("Give sizes", body=Sizes, returns={204: None})
    def give_sizes(body: Sizes) -> Response:
        return no_content()

    return app


def fields(response: TestResponse) -> list[str]:
    assert response.json is not None
    return [error["field"] for error in response.json["errors"]]


def test_valid_body_is_passed_to_the_view(client: FlaskClient) -> None:
    response = client.post("/api/things", json={"name": "radar"})
    assert response.status_code == 201
    assert response.content_type == "application/json"
    assert response.json == {"name": "radar"}


def test_content_type_parameters_are_accepted(client: FlaskClient) -> None:
    response = client.post("/api/things", data='{"name": "radar"}', content_type="application/json; charset=utf-8")
    assert response.status_code == 201


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "text/json"]
)
def test_other_content_type_is_415(client: FlaskClient, content_type: str | None) -> None:
    response = client.post("/api/things", data='{"name": "radar"}', content_type=content_type)
    assert response.status_code == 415


@pytest.mark.parametrize("body", [b"", b"{", b"{'name': 'radar'}", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b"\x80\x04N."])
def test_broken_json_is_400(client: FlaskClient, body: bytes) -> None:
    response = client.post("/api/things", data=body, content_type="application/json")
    assert response.status_code == 400
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["name"]),
        ({"name": None}, ["name"]),
        ({"name": 7}, ["name"]),
        ({"name": "radar", "size": "2"}, ["size"]),  # no guessing of types
        ({"name": "radar", "size": 2.0}, ["size"]),
        ({"name": "radar", "is_admin": True}, ["is_admin"]),
        ({"size": "2", "colour": "red"}, ["name", "size", "colour"]),
    ],
)
def test_invalid_body_is_422_and_names_each_field(client: FlaskClient, body: dict[str, Any], expected: list[str]) -> None:
    response = client.post("/api/things", json=body)
    assert response.status_code == 422
    assert fields(response) == expected


@pytest.mark.parametrize("body", ["[]", '"radar"', "7", "null", "NaN"])
def test_body_that_is_not_an_object_is_422(client: FlaskClient, body: str) -> None:
    assert client.post("/api/things", data=body, content_type="application/json").status_code == 422


def test_nested_field_is_named_by_its_path(client: FlaskClient) -> None:
    assert fields(client.post("/api/sizes", json={"sizes": [1, "2"]})) == ["sizes.1"]


def test_body_with_too_many_faults_is_422_without_a_list(client: FlaskClient) -> None:
    assert fields(client.post("/api/sizes", json={"sizes": ["x"] * 20})) == [f"sizes.{number}" for number in range(20)]
    response = client.post("/api/sizes", json={"sizes": ["x"] * 21})
    assert response.status_code == 422
    assert len(response.text) < 1000


MANY = 90_000


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"k{number:05}": 1 for number in range(MANY)}, separators=(",", ":")),
        json.dumps({"name": "a", "size": [[{}, {f"{number}": ""}] for number in range(MANY // 3)]}),
        json.dumps({"name": [""] * MANY}),
    ],
    ids=["unknown keys", "nested", "array"],
)
def test_body_with_too_many_members_is_422_without_validation(client: FlaskClient, body: str) -> None:
    durations = []
    for _ in range(3):
        began = time.thread_time()
        response = client.post("/api/things", data=body, content_type="application/json")
        durations.append(time.thread_time() - began)
        assert response.status_code == 422
        assert "keys and array items" in response.text
    assert min(durations) < 0.05  # validation takes several times as long


def test_commas_in_strings_are_no_members(client: FlaskClient) -> None:
    name = ',"\\' * MAX_MEMBERS
    response = client.post("/api/things", data=json.dumps({"name": name}), content_type="application/json")
    assert (response.status_code, response.json) == (201, {"name": name})


@pytest.mark.parametrize("content_type", ["multipart/form-data", "application/x-www-form-urlencoded"])
def test_form_is_limited_to_64_kibibytes(client: FlaskClient, content_type: str) -> None:
    for size, status in ((60 * 1024, 401), (65 * 1024, 413)):
        form = {"email": "a@b.org", "password": "x", "filler": "x" * size}
        assert client.post("/login", data=form, content_type=content_type).status_code == status


def test_error_does_not_repeat_the_input(client: FlaskClient) -> None:
    response = client.post("/api/things", json={"name": ["hunter2"], "password": "hunter2"})
    assert response.status_code == 422
    assert "hunter2" not in response.text


def test_body_is_limited_to_one_mebibyte(client: FlaskClient) -> None:
    frame = b'{"name": ""}'
    body = frame[:-2] + b"x" * (MAX_BODY_BYTES - len(frame)) + frame[-2:]
    assert len(body) == MAX_BODY_BYTES == 1024 * 1024
    assert client.post("/api/things", data=body, content_type="application/json").status_code == 201
    response = client.post("/api/things", data=body + b" ", content_type="application/json")
    assert response.status_code == 413
    assert response.content_type == "application/problem+json"
