from __future__ import annotations

from http.cookies import Morsel, SimpleCookie

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.http.security import HEADERS
from tests.unit.conftest import MakeApp, with_faults

ACCOUNT = {"email": "ada@example.org", "password": "correct horse battery"}
HTTP, HTTPS = "http://app.example", "https://app.example"


def morsels(response: TestResponse) -> dict[str, Morsel[str]]:
    return dict(SimpleCookie("; ".join(response.headers.getlist("Set-Cookie"))).items())


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return with_faults(
        make_app(ALLOWED_ORIGINS="https://friend.example", TRUSTED_HOSTS="app.example, localhost, 127.0.0.1, [::1]")
    )


@pytest.fixture
def production(make_app: MakeApp) -> FlaskClient:
    return with_faults(make_app(APP_ENV="production")).test_client()


@pytest.mark.parametrize(
    ("base", "origin", "site", "allowed"),
    [
        # Programs, not browsers.
        (HTTP, None, None, True),
        # The same origin.
        (HTTP, "http://app.example", None, True),
        (HTTP, "http://app.example:80", None, True),
        (HTTP, "http://APP.example", None, True),
        (HTTPS, "https://app.example", None, True),
        (HTTPS, "https://app.example", "same-origin", True),
        (HTTP, None, "same-origin", True),
        (HTTP, "https://app.example", "same-origin", True),  # a proxy that does not tell the scheme
        (HTTP, None, "none", True),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000", "same-origin", True),
        ("http://[::1]:3000", "http://[::1]:3000", None, True),
        # Another scheme, port or host.
        (HTTP, "https://app.example", None, False),
        (HTTPS, "http://app.example", None, False),
        (HTTP, "http://app.example:8080", None, False),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3001", None, False),
        ("http://127.0.0.1:3000", "http://localhost:3000", None, False),
        (HTTP, "http://evil.example", None, False),
        (HTTP, "http://app.example.evil.example", None, False),
        (HTTP, "http://evil.example/app.example", None, False),
        (HTTP, "http://app.example@evil.example", None, False),
        (HTTP, "http://sub.app.example", None, False),
        # Invalid or opaque origins.
        (HTTP, "null", None, False),
        (HTTP, "", None, False),
        (HTTP, "app.example", None, False),
        (HTTP, "http://", None, False),
        (HTTP, "http://[", None, False),
        (HTTP, "http://app.example:port", None, False),
        (HTTP, "http://app.example:99999", None, False),
        # Sec-Fetch-Site.
        (HTTP, None, "cross-site", False),
        (HTTP, None, "same-site", False),
        (HTTP, None, "", False),
        (HTTP, None, "something-new", False),
        (HTTP, "http://app.example", "cross-site", False),
        (HTTP, "http://evil.example", "same-origin", False),
        (HTTP, "null", "none", False),
        # An allowed origin.
        (HTTP, "https://friend.example", None, True),
        (HTTP, "https://friend.example", "cross-site", True),
        (HTTP, "http://friend.example", None, False),
        (HTTP, "https://friend.example:8443", None, False),
        (HTTP, "https://sub.friend.example", None, False),
    ],
)
@pytest.mark.parametrize("path", ["/api/auth/logout", "/logout"])
def test_state_changing_request_of_another_site_is_rejected(
    client: FlaskClient, path: str, base: str, origin: str | None, site: str | None, allowed: bool
) -> None:
    headers = {name: value for name, value in (("Origin", origin), ("Sec-Fetch-Site", site)) if value is not None}
    response = client.post(path, base_url=base, headers=headers)
    done = {"/api/auth/logout": 204, "/logout": 303}[path]
    assert response.status_code == (done if allowed else 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_each_unsafe_method_is_checked(client: FlaskClient, method: str) -> None:
    response = client.open("/api/auth/sessions", method=method, headers={"Origin": "https://evil.example"})
    assert response.status_code == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_methods_of_other_sites_are_accepted(client: FlaskClient, method: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert client.open("/login", method=method, headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["[::1", "a b", "app.example:port", "app.example@evil.example"])
def test_invalid_host_matches_no_origin(client: FlaskClient, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert client.post("/api/auth/logout", headers=headers).status_code in (400, 403)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/live", 200),
        ("/login", 200),
        ("/api/openapi.json", 200),
        ("/folder", 308),
        ("/api/auth/me", 401),
        ("/nowhere", 404),
        ("/api/nowhere", 404),
        ("/api/auth/login", 405),
        ("/fail", 500),
        ("/api/fail", 500),
    ],
)
def test_each_kind_of_response_has_security_headers(client: FlaskClient, production: FlaskClient, path: str, status: int) -> None:
    for caller, hsts in ((client, None), (production, "max-age=31536000; includeSubDomains")):
        response = caller.get(path)
        assert response.status_code == status
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
        assert response.headers.get("Strict-Transport-Security") == hsts


def test_policy_forbids_inline_scripts_and_styles() -> None:
    policy = dict(directive.split(" ", 1) for directive in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_development_cookies_work_over_plain_http(client: FlaskClient) -> None:
    cookies = morsels(client.post("/api/auth/register", json=ACCOUNT))
    assert set(cookies) == {"reporadar_session", "reporadar_device"}
    for cookie in cookies.values():
        assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == ("", True, "Lax")
        assert (cookie["path"], cookie["domain"]) == ("/", "")


def test_production_cookies_are_secure_and_bound_to_the_host(production: FlaskClient) -> None:
    cookies = morsels(production.post("/api/auth/register", json=ACCOUNT, base_url=HTTPS))
    assert set(cookies) == {"__Host-session", "__Host-device"}
    for cookie in cookies.values():
        assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")
        assert (cookie["path"], cookie["domain"]) == ("/", "")


def test_cookie_max_age_equals_session_max_age(client: FlaskClient) -> None:
    cookies = morsels(client.post("/api/auth/register", json=ACCOUNT))
    assert 2_592_000 - 60 <= int(cookies["reporadar_session"]["max-age"]) <= 2_592_000


def test_logout_deletes_the_cookie_with_its_original_attributes(production: FlaskClient) -> None:
    production.post("/api/auth/register", json=ACCOUNT, base_url=HTTPS)
    cookie = morsels(production.post("/api/auth/logout", base_url=HTTPS))["__Host-session"]
    assert (cookie.value, cookie["max-age"]) == ("", "0")
    assert (cookie["secure"], cookie["httponly"], cookie["path"], cookie["domain"]) == (True, True, "/", "")


@pytest.mark.parametrize("path", ["/api/auth/me", "/api/auth/sessions", "/", "/settings", "/nowhere", "/api/nowhere"])
@pytest.mark.parametrize("signed_in", [True, False])
def test_private_responses_are_not_cached(client: FlaskClient, path: str, signed_in: bool) -> None:
    if signed_in:
        assert client.post("/api/auth/register", json=ACCOUNT).headers["Cache-Control"] == "no-store"
    assert client.get(path).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
def test_health_responses_are_not_cached(client: FlaskClient, path: str) -> None:
    assert client.get(path).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/login", "/register", "/health", "/health/ready", "/health/live", "/metrics"])
def test_public_responses_neither_set_nor_vary_on_cookies(client: FlaskClient, path: str) -> None:
    client.post("/api/auth/register", json=ACCOUNT)
    response = client.get(path)
    assert response.headers.getlist("Set-Cookie") == []
    assert "Cookie" not in response.headers.get("Vary", "")


def test_response_that_accessed_the_session_varies_on_cookie(client: FlaskClient) -> None:
    assert "Cookie" in client.get("/api/auth/me").headers["Vary"]
