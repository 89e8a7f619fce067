from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

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


def test_operations_with_401_declare_the_session_cookie(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert paths["/api/auth/me"]["get"]["security"] == [{"session": []}]
    assert "security" not in paths["/api/auth/register"]["post"]
    assert document["components"]["securitySchemes"]["session"]["name"] == "reporadar_session"


def test_operations_with_a_body_declare_its_errors(document: dict[str, Any]) -> None:
    responses = document["paths"]["/api/auth/register"]["post"]["responses"]
    assert set(responses) == {"201", "400", "403", "409", "413", "415", "422", "429", "503"}
