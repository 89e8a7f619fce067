from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core import instance
from app.core.logs import JsonFormatter, TextFormatter
from tests.unit.conftest import MakeApp, count_of, with_faults

EVERY_KIND: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/health/live", {}, 200),
    ("GET", "/login", {}, 200),
    ("GET", "/nowhere", {}, 404),
    ("GET", "/api/nowhere", {}, 404),
    ("GET", "/api/auth/login", {}, 405),
    ("POST", "/api/auth/login", {"data": {"email": "a@example.org"}}, 415),
    ("POST", "/api/auth/login", {"data": "{", "content_type": "application/json"}, 400),
    ("POST", "/api/auth/login", {"json": {}}, 422),
    ("POST", "/api/auth/login", {"data": b" " * (1024 * 1024 + 1), "content_type": "application/json"}, 413),
    ("POST", "/api/auth/logout", {"headers": {"Origin": "https://evil.example"}}, 403),
    ("GET", "/api/auth/me", {}, 401),
    ("GET", "/folder", {}, 308),
    ("GET", "/settings", {}, 303),
    ("GET", "/fail", {}, 500),
    ("GET", "/api/fail", {}, 500),
]
IDS = [f"{method} {path} {status}" for method, path, _, status in EVERY_KIND]


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return with_faults(make_app())


@pytest.mark.parametrize(("method", "path", "options", "status"), EVERY_KIND, ids=IDS)
def test_each_kind_of_response_has_instance_and_request_id(
    client: FlaskClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    response = client.open(path, method=method, **options)
    assert response.status_code == status
    assert response.headers.getlist("X-Instance-Id") == ["instance-1"]
    (request_id,) = response.headers.getlist("X-Request-Id")
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)


def test_each_request_has_its_own_id(client: FlaskClient) -> None:
    assert len({client.get("/health/live").headers["X-Request-Id"] for _ in range(10)}) == 10


def test_instance_id_is_the_current_one(client: FlaskClient) -> None:
    instance.identify("instance-2")
    assert client.get("/health/live").headers["X-Instance-Id"] == "instance-2"


@pytest.mark.parametrize("given", ["7", "a.b_c-D", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x" * 128])
def test_valid_incoming_request_id_is_kept(client: FlaskClient, given: str) -> None:
    assert client.get("/nowhere", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a,b", "<script>", "a\x1b[2J", "a\u00e9", "a/b", "id\t"])
def test_invalid_incoming_request_id_is_replaced(client: FlaskClient, given: str) -> None:
    response = client.get("/nowhere", environ_base={"HTTP_X_REQUEST_ID": given})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])


def test_each_request_is_logged_in_one_line(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(TextFormatter())
    with caplog.at_level(logging.INFO, "app.requests"):
        client.get("/nowhere?password=hunter2", headers={"X-Request-Id": "request-7"})
    (line,) = caplog.text.splitlines()
    assert re.fullmatch(r"\[.*\] \[INFO\] \[instance-1\] GET /nowhere 404 \d+ ms request_id=request-7", line)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
@pytest.mark.parametrize("path", ["/feeds/{}.atom", "/shared/{}", "/shared/{}.json", "/shared/{}/badge.svg"])
def test_secret_addresses_are_not_logged(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, path: str, formatter: logging.Formatter
) -> None:
    caplog.handler.setFormatter(formatter)
    with caplog.at_level(logging.INFO):
        address = path.format(32 * "5")
        client.get(address)
        try:
            raise ValueError(address)
        except ValueError:
            logging.getLogger("app").exception("failed")
    assert f"GET {path.format('***')} 404" in caplog.text
    assert 8 * "5" not in caplog.text


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live", "/metrics"])
def test_monitoring_requests_are_not_logged_at_info(client: FlaskClient, caplog: pytest.LogCaptureFixture, path: str) -> None:
    with caplog.at_level(logging.DEBUG, "app.requests"):
        client.get(path)
    assert [record.levelno for record in caplog.records if record.name == "app.requests"] == [logging.DEBUG]


def test_requests_are_counted_by_status_class(client: FlaskClient) -> None:
    before = count_of("reporadar_http_request_seconds_count", status="4xx")
    client.get("/nowhere")
    assert count_of("reporadar_http_request_seconds_count", status="4xx") == before + 1


@pytest.mark.parametrize("path", ["/health/live", "/metrics", "/socket.io/?EIO=4&transport=polling"])
def test_monitoring_requests_and_polls_are_not_counted(client: FlaskClient, path: str) -> None:
    def total() -> float:
        return sum(count_of("reporadar_http_request_seconds_count", status=f"{digit}xx") for digit in range(1, 6))

    before = total()
    client.get(path)
    assert total() == before


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64])
@pytest.mark.parametrize("path", ["/", "/health/live", "/api/auth/me", "/static/style.css"])
def test_invalid_host_is_400_with_the_headers(client: FlaskClient, host: str, path: str) -> None:
    response = client.get(path, headers={"Host": host})
    assert response.status_code == 400
    assert {"X-Instance-Id", "X-Request-Id"} <= set(response.headers.keys())
