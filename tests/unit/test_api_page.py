"""docs/api.md is what the script makes of the description of the API."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

import pytest
from flask import Flask

from app.http.openapi import describe
from scripts.api_page import PAGE, SITE, describe_value, render


def test_page_is_current(app: Flask) -> None:
    assert PAGE.read_text() == render(describe(app)), "run: .venv/bin/python -m scripts.api_page"


def test_each_operation_has_one_section_that_the_contents_lead_to(app: Flask) -> None:
    document = describe(app)
    page = render(document)
    links = re.findall(r"\]\(#([^)]+)\)", page)
    headings = [
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^### (.+)$", page, re.MULTILINE)
    ]
    assert links == headings
    assert len(set(headings)) == len(headings) == sum(map(len, document["paths"].values()))


def test_section_shows_parameters_requests_responses_and_errors(app: Flask) -> None:
    document = describe(app)
    document["paths"] = {"/api/notifications/read": document["paths"]["/api/notifications/read"]}
    section = render(document).partition("### ")[2]
    assert "`POST /api/notifications/read`: session, or API token with the scope `write`" in section
    assert "| `up_to` | body | integer |" in section
    assert "-d '{\"up_to\": 42}'" in section
    assert "Response 204 No Content, without a body." in section
    assert "Errors: 400, 401, 403, 413, 415, 422, 429, 503." in section


def curl_requests(page: str) -> list[tuple[str, str, str | None]]:
    """The method, path and body of each example on the page."""
    parser = argparse.ArgumentParser()
    for option in ("-X", "-H", "-d", "-b", "-c"):
        parser.add_argument(option)
    parser.add_argument("url")
    blocks = re.findall(r"^```sh\ncurl (.*?)```", page, re.MULTILINE | re.DOTALL)
    found = [parser.parse_args(shlex.split(block.replace("\\\n", ""))) for block in blocks]
    return [(one.X or ("POST" if one.d else "GET"), one.url.removeprefix(SITE), one.d) for one in found]


def test_each_request_of_the_page_is_valid(app: Flask) -> None:
    requests = curl_requests(PAGE.read_text().partition("## Repositories")[2])
    routes = app.url_map.bind("")
    client = app.test_client()
    statuses = []
    for number, (method, path, body) in enumerate(requests):
        routes.match(path.partition("?")[0], method)
        if client.get("/api/auth/me").status_code == 401:  # some of the requests end the session
            client.post("/api/auth/register", json={"email": f"user-{number}@example.org", "password": "three calm herons"})
        response = client.open(path, method=method, data=body, content_type="application/json")
        statuses.append((response.status_code, method, path))
    assert len(statuses) > 40
    # The user is no administrator, has none of the objects, and registers after signing in. No request is refused for its form.
    refused = [found for found in statuses if found[0] not in (200, 201, 202, 204, 403, 404)]
    assert refused == [(401, "POST", "/api/auth/login")]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "integer"),
        ({"type": "integer", "minimum": 1, "maximum": 100}, "integer, 1 to 100"),
        ({"type": "string", "minLength": 8, "maxLength": 256}, "string, 8 to 256 characters"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Name"}, "maxItems": 3}, "array of string, 0 to 3 items"),
        ({"enum": ["read", "write"], "type": "string"}, '`"read"` or `"write"`'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({}, "any value"),
    ],
)
def test_values_in_words(schema: dict[str, Any], words: str) -> None:
    assert describe_value(schema, {"Name": {"type": "string"}}) == words
