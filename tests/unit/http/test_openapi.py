from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

JSON = "application/json"
UNDESCRIBED = {"/api/openapi.json"}


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    response = client.get("/api/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json or {}
    return found


def test_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")


def test_each_api_route_is_described(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/") and rule.rule not in UNDESCRIBED
    }
    assert ("/api/auth/login", "post") in routes
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == routes


def test_each_reference_resolves(document: dict[str, Any]) -> None:
    references = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert "ProblemDetails" in references
    assert references <= set(document["components"]["schemas"])


def test_operations_that_require_sign_in_declare_the_session_cookie(document: dict[str, Any]) -> None:
    paths = document["paths"]
    with_401 = {name for name, found in operations(document) if "401" in found["responses"]}
    assert with_401 - {name for name, found in operations(document) if "security" in found} == {"post /api/auth/login"}
    assert paths["/api/auth/me"]["get"]["security"] == [{"session": []}]
    assert "security" not in paths["/api/auth/register"]["post"]
    assert document["components"]["securitySchemes"]["session"]["name"] == "reporadar_session"


def test_operations_with_a_body_declare_its_errors(document: dict[str, Any]) -> None:
    responses = document["paths"]["/api/auth/register"]["post"]["responses"]
    assert set(responses) == {"201", "400", "403", "409", "413", "415", "422", "429", "503"}


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{method} {path}", found) for path, methods in document["paths"].items() for method, found in methods.items()]


def examples(operation: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The examples of an operation, each with the schema that it has to fit."""
    parts = [operation.get("requestBody", {}), *(found for status, found in operation["responses"].items() if status < "300")]
    for content in (part["content"][JSON] for part in parts if JSON in part.get("content", {})):
        yield content["example"], content["schema"]
    for parameter in operation.get("parameters", ()):
        yield parameter["example"], parameter["schema"]


def unnamed(value: Any, field: str = "") -> list[str]:
    """The fields whose example is only their name."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in unnamed(inner, key)]
    if isinstance(value, list):
        return [found for inner in value for found in unnamed(inner, field)]
    return [field] if value == field else []


def test_each_operation_has_a_declared_tag(document: dict[str, Any]) -> None:
    declared = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert {tag for _, operation in operations(document) for tag in operation["tags"]} == declared
    assert all(len(operation["tags"]) == 1 for _, operation in operations(document))


def test_each_example_fits_its_schema(document: dict[str, Any]) -> None:
    components = {"components": document["components"]}
    found = [(name, *pair) for name, operation in operations(document) for pair in examples(operation)]
    assert len(found) > 60
    for name, value, schema in found:
        errors = [error.message for error in Draft202012Validator({**schema, **components}).iter_errors(value)]
        assert (name, errors) == (name, [])
        assert (name, unnamed(value)) == (name, []), "add the field to VALUES in app/http/examples.py"


def test_example_that_does_not_fit_is_found() -> None:
    assert [*Draft202012Validator({"type": "object", "required": ["a"]}).iter_errors({})]
    assert unnamed({"a": "x", "b": [{"name": "name"}]}) == ["name"]
