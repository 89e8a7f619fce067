"""API tokens: what they may do, and when they end."""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from app.auth import store, token_store, tokens
from app.auth.limits import MemoryRateLimiter
from app.auth.tokens import MAX_PER_USER, READ, WRITE, ApiTokens, InvalidToken
from app.core.config_parsers import RateLimit
from app.core.errors import Conflict, Invalid, NotFound, TooMany
from app.database.engine import Database, DatabaseReadOnly
from app.database.schema import api_tokens
from app.http.api import Operation

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
ADDRESS = "192.0.2.1"
REFUSED = "API tokens cannot be used for accounts, tokens and administration. Sign in instead."
INVALID = 'Bearer realm="RepoRadar", error="invalid_token", error_description="The API token is invalid, expired or revoked."'


# The service.


@pytest.fixture
def service(both: Database) -> ApiTokens:
    return ApiTokens(both, MemoryRateLimiter())


@pytest.fixture
def ada(both: Database) -> int:
    return both.run(store.add, EMAIL, "hash").id


def test_token_signs_its_user_in(service: ApiTokens, ada: int) -> None:
    token, secret = service.create(ada, " build server ", READ, None, ADDRESS)
    assert (token.name, token.scope, token.user_id, token.last_used_at, token.expires_at) == (
        "build server",
        READ,
        ada,
        None,
        None,
    )
    found, user = service.authenticate(secret, ADDRESS)
    assert (found, user.id, user.email) == (token, ada, EMAIL)


def test_only_the_digest_of_a_token_is_stored(both: Database, service: ApiTokens, ada: int) -> None:
    _, secret = service.create(ada, "build server", READ, None, ADDRESS)
    rows = both.run(lambda connection: connection.execute(select(api_tokens)).all())
    assert secret.removeprefix("rr_") not in str(rows)
    assert rows[0].digest == hashlib.sha256(secret.encode()).hexdigest()


def test_secrets_are_random(service: ApiTokens, ada: int) -> None:
    secrets = {service.create(ada, "build server", READ, None, ADDRESS)[1] for _ in range(5)}
    assert len(secrets) == 5
    assert all(len(secret) == len("rr_") + 43 and secret.startswith("rr_") for secret in secrets)


@pytest.mark.parametrize(
    "secret", ["", "rr_", "rr_" + "a" * 43, "a" * 43, "rr_" + "é" * 43, "rr_\0" + "a" * 42, "rr_" + "a" * 5000]
)
def test_unknown_token_is_refused(service: ApiTokens, ada: int, secret: str) -> None:
    with pytest.raises(InvalidToken):
        service.authenticate(secret, ADDRESS)


def test_revoked_token_is_refused(service: ApiTokens, ada: int) -> None:
    token, secret = service.create(ada, "build server", READ, None, ADDRESS)
    _, kept = service.create(ada, "other", READ, None, ADDRESS)
    service.revoke(ada, token.id, ADDRESS)
    with pytest.raises(InvalidToken):
        service.authenticate(secret, ADDRESS)
    assert service.authenticate(kept, ADDRESS)[0].name == "other"
    with pytest.raises(NotFound):
        service.revoke(ada, token.id, ADDRESS)


def test_token_of_somebody_else_cannot_be_revoked(both: Database, service: ApiTokens, ada: int) -> None:
    token, secret = service.create(ada, "build server", READ, None, ADDRESS)
    bob = both.run(store.add, "bob@example.org", "hash").id
    with pytest.raises(NotFound):
        service.revoke(bob, token.id, ADDRESS)
    assert service.authenticate(secret, ADDRESS)
    assert service.list(bob) == []


def test_token_expires(both: Database, service: ApiTokens, ada: int) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    token, secret = service.create(ada, "build server", READ, later, ADDRESS)
    assert token.expires_at == later
    assert service.authenticate(secret, ADDRESS)
    past = update(api_tokens).values(expires_at=datetime.now(UTC) - timedelta(milliseconds=1))
    both.run(lambda connection: connection.execute(past))
    with pytest.raises(InvalidToken):
        service.authenticate(secret, ADDRESS)
    assert [token.id for token in service.list(ada)] == [token.id]


def test_expiry_is_in_the_future(service: ApiTokens, ada: int) -> None:
    with pytest.raises(Invalid) as raised:
        service.create(ada, "build server", READ, datetime.now(UTC), ADDRESS)
    assert raised.value.errors[0]["field"] == "expires_at"


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "\0"])
def test_token_has_a_printable_name(service: ApiTokens, ada: int, name: str) -> None:
    with pytest.raises(Invalid) as raised:
        service.create(ada, name, READ, None, ADDRESS)
    assert raised.value.errors[0]["field"] == "name"


def test_number_of_tokens_is_limited(service: ApiTokens, ada: int) -> None:
    created = [service.create(ada, f"token {number}", READ, None, ADDRESS)[0] for number in range(MAX_PER_USER)]
    with pytest.raises(Conflict):
        service.create(ada, "one more", READ, None, ADDRESS)
    service.revoke(ada, created[0].id, ADDRESS)
    service.create(ada, "one more", READ, None, ADDRESS)
    assert [token.name for token in service.list(ada)][:2] == ["one more", f"token {MAX_PER_USER - 1}"]


def test_last_use_is_stored_once_a_minute(both: Database, service: ApiTokens, ada: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = service.create(ada, "build server", READ, None, ADDRESS)
    writes: list[object] = []
    record_use = token_store.record_use
    monkeypatch.setattr(token_store, "record_use", lambda *arguments: writes.append(record_use(*arguments)))
    for _ in range(3):
        service.authenticate(secret, ADDRESS)
    (token,) = service.list(ada)
    assert token.last_used_at is not None
    assert datetime.now(UTC) - token.last_used_at < timedelta(minutes=1)
    assert len(writes) == 1
    long_ago = token.last_used_at - timedelta(seconds=tokens.LAST_USE_SECONDS)
    both.run(lambda connection: connection.execute(update(api_tokens).values(last_used_at=long_ago)))
    service.authenticate(secret, ADDRESS)
    assert len(writes) == 2
    assert service.list(ada)[0].last_used_at > long_ago  # type: ignore[operator]


def test_token_works_while_the_database_is_read_only(service: ApiTokens, ada: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = service.create(ada, "build server", READ, None, ADDRESS)
    attempts = []

    def fail(*_: object) -> None:
        attempts.append(1)
        raise DatabaseReadOnly

    monkeypatch.setattr(token_store, "record_use", fail)
    for _ in range(3):
        service.authenticate(secret, ADDRESS)
    assert len(attempts) == 1


def test_requests_are_limited_for_each_token(service: ApiTokens, ada: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REQUEST_LIMIT", RateLimit(3, 60))
    _, secret = service.create(ada, "busy", READ, None, ADDRESS)
    _, other = service.create(ada, "other", READ, None, ADDRESS)
    for _ in range(3):
        service.authenticate(secret, ADDRESS)
    with pytest.raises(TooMany) as raised:
        service.authenticate(secret, ADDRESS)
    assert 1 <= int(raised.value.headers["Retry-After"]) <= 60
    service.authenticate(other, ADDRESS)


def test_log_names_the_token_but_not_its_secret(service: ApiTokens, ada: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token, secret = service.create(ada, "geheim", WRITE, None, ADDRESS)
    service.authenticate(secret, ADDRESS)
    service.revoke(ada, token.id, ADDRESS)
    with pytest.raises(InvalidToken):
        service.authenticate(secret, ADDRESS)
    lines = [record.getMessage() for record in caplog.records if record.name == "audit"]
    assert lines == [
        f"token.created address=192.0.2.1 user={ada} token={token.id} scope=write",
        f"token.revoked address=192.0.2.1 user={ada} token={token.id}",
        "token.rejected address=192.0.2.1 reason=unknown",
    ]
    assert secret.removeprefix("rr_") not in caplog.text
    assert "geheim" not in caplog.text


# Requests.


@pytest.fixture
def browser(client: FlaskClient) -> FlaskClient:
    """A signed-in browser."""
    assert client.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD}).status_code == 201
    return client


@pytest.fixture
def program(app: Flask) -> FlaskClient:
    """A client without cookies."""
    return app.test_client(use_cookies=False)


def create(browser: FlaskClient, scope: str = WRITE, **more: str) -> dict[str, Any]:
    response = browser.post("/api/auth/tokens", json={"name": "build server", "scope": scope, **more})
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.get_json()
    return created


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def challenge(response: TestResponse) -> tuple[int, str | None]:
    return response.status_code, response.headers.get("WWW-Authenticate")


def test_token_is_shown_once(browser: FlaskClient) -> None:
    created = create(browser, READ, expires_at="2999-01-01T00:00:00Z")
    listed = browser.get("/api/auth/tokens")
    assert created["token"] not in listed.text
    assert listed.get_json() == {"tokens": [{name: value for name, value in created.items() if name != "token"}]}
    assert (created["scope"], created["expires_at"]) == (READ, "2999-01-01T00:00:00.000Z")
    assert listed.headers["Cache-Control"] == "no-store"
    assert browser.delete(f"/api/auth/tokens/{created['id']}").status_code == 204
    assert browser.get("/api/auth/tokens").get_json() == {"tokens": []}


def test_scope_is_read_unless_it_is_given(browser: FlaskClient) -> None:
    assert browser.post("/api/auth/tokens", json={"name": "n"}).get_json()["scope"] == READ
    for body in ({"name": "n", "scope": "admin"}, {"name": ""}, {"name": "n" * 101}, {"name": "n", "expires_at": "2001-01-01"}):
        assert browser.post("/api/auth/tokens", json=body).status_code == 422


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_program_needs_no_cookie_and_gets_none(browser: FlaskClient, program: FlaskClient, scheme: str) -> None:
    token = create(browser)["token"]
    headers = {"Authorization": f"{scheme} {token}", "Origin": "https://other.example", "Sec-Fetch-Site": "cross-site"}
    for method, path, body in (
        ("GET", "/api/repositories", None),
        ("POST", "/api/notifications/read", {"up_to": 0}),
        ("PUT", "/api/analytics/opt-out", None),
        ("DELETE", "/api/analytics/opt-out", None),
    ):
        response = program.open(path, method=method, json=body, headers=headers)
        assert response.status_code in (200, 204), response.text
        assert "Set-Cookie" not in response.headers


def test_token_of_the_scope_read_only_reads(browser: FlaskClient, program: FlaskClient) -> None:
    headers = bearer(create(browser, READ)["token"])
    assert program.get("/api/notifications", headers=headers).status_code == 200
    assert program.head("/api/notifications", headers=headers).status_code == 200
    refused = program.post("/api/notifications/read", json={"up_to": 0}, headers=headers)
    assert challenge(refused) == (403, 'Bearer realm="RepoRadar", error="insufficient_scope", scope="write"')
    assert program.put("/api/analytics/opt-out", headers=headers).status_code == 403


def test_invalid_token_is_refused_also_where_no_account_is_needed(browser: FlaskClient, program: FlaskClient) -> None:
    for path in ("/api/repositories", "/api/openapi.json", "/api/nothing"):
        for text in ("Bearer", "Bearer ", "Bearer rr_x", "bearer " + "x" * 46):
            assert challenge(program.get(path, headers={"Authorization": text})) == (401, INVALID)
    assert challenge(program.get("/api/repositories")) == (401, 'Bearer realm="RepoRadar"')


def test_other_schemes_and_other_paths_are_not_about_tokens(browser: FlaskClient) -> None:
    assert browser.get("/api/repositories", headers={"Authorization": "Basic YWRhOmFkYQ=="}).status_code == 200
    assert browser.get("/settings", headers=bearer("rr_x")).status_code == 200
    assert browser.get("/health/live", headers=bearer("rr_x")).status_code == 200


def test_token_counts_and_not_the_cookie(app: Flask, browser: FlaskClient) -> None:
    token = create(browser)["token"]
    other = app.test_client()
    other.post("/api/auth/register", json={"email": "bob@example.org", "password": PASSWORD})
    assert other.post("/api/repositories", json={"url": "https://git.example.org/a/b"}, headers=bearer(token)).status_code in (
        202,
        422,
    )
    assert other.get("/api/repositories", headers=bearer("rr_x")).status_code == 401
    assert other.put("/api/analytics/opt-out").headers.getlist("Set-Cookie")
    assert not other.get("/api/analytics/opt-out", headers=bearer(token)).get_json()["opted_out"]
    opted_out = other.put("/api/analytics/opt-out", headers=bearer(token))
    assert (opted_out.status_code, opted_out.headers.getlist("Set-Cookie")) == (200, [])
    assert browser.get("/api/analytics/opt-out").get_json()["opted_out"]


def test_accounts_tokens_and_administration_refuse_tokens(app: Flask, browser: FlaskClient, program: FlaskClient) -> None:
    headers = bearer(create(browser)["token"])
    app.extensions["database"].run(store.promote, EMAIL)
    closed: list[str] = []
    opened: list[str] = []
    for rule in app.url_map.iter_rules():
        operation: Operation | None = getattr(app.view_functions[rule.endpoint], "operation", None)
        if operation is None:
            continue
        path = re.sub("<.*?>", "1", rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:  # type: ignore[operator]
            response = program.open(path, method=method, headers=headers)
            refused = response.status_code == 403 and response.get_json()["detail"] == REFUSED
            assert refused is not operation.accepts_tokens, rule
            (closed if refused else opened).append(f"{method} {rule.rule}")
            assert "Set-Cookie" not in response.headers
    administration = ("/api/auth/", "/api/fleet", "/api/analytics/exports", "/api/analytics/summary")
    assert [name for name in closed if not name.split()[1].startswith(administration)] == []
    assert [name for name in opened if name.split()[1].startswith(administration)] == []
    assert browser.get("/api/auth/me").status_code == 200


def test_deleted_account_has_no_tokens(browser: FlaskClient, program: FlaskClient) -> None:
    headers = bearer(create(browser)["token"])
    assert browser.delete("/api/auth/account", json={"password": PASSWORD}).status_code == 204
    assert program.get("/api/repositories", headers=headers).status_code == 401


def test_changed_password_keeps_tokens(browser: FlaskClient, program: FlaskClient) -> None:
    headers = bearer(create(browser)["token"])
    body = {"current_password": PASSWORD, "new_password": "four eager otters"}
    assert browser.post("/api/auth/password", json=body).status_code == 204
    assert program.get("/api/repositories", headers=headers).status_code == 200


def test_description_has_both_ways_to_sign_in(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert document["paths"]["/api/repositories"]["get"]["security"] == [{"session": []}, {"token": []}]
    assert "429" in document["paths"]["/api/repositories"]["get"]["responses"]
    for path in ("/api/auth/tokens", "/api/fleet"):
        assert document["paths"][path]["get"]["security"] == [{"session": []}]


# The settings page.


def test_settings_page_shows_a_new_token_once(browser: FlaskClient) -> None:
    page = browser.post("/settings/tokens", data={"name": "<b>build</b>", "scope": "write", "days": "30"})
    assert page.status_code == 200
    assert page.headers["Cache-Control"] == "no-store"
    secret = page.text.partition('value="rr_')[2].partition('"')[0]
    assert browser.get("/api/repositories", headers=bearer(f"rr_{secret}")).status_code == 200
    (token,) = browser.get("/api/auth/tokens").get_json()["tokens"]
    assert token["name"] == "<b>build</b>"
    assert timedelta(days=29) < datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC) < timedelta(days=30)
    again = browser.get("/settings").text
    assert secret not in again
    assert "&lt;b&gt;build&lt;/b&gt;" in again
    assert browser.post(f"/settings/tokens/{token['id']}/revoke").location == "/settings?done=token"
    assert browser.post(f"/settings/tokens/{token['id']}/revoke").location == "/settings?done=token"
    assert browser.get("/api/auth/tokens").get_json() == {"tokens": []}


@pytest.mark.parametrize("form", [{"name": " "}, {"name": "n" * 101}, {"scope": "admin"}, {"days": "1000000000"}, {"days": "x"}])
def test_settings_page_refuses_other_values(browser: FlaskClient, form: dict[str, str]) -> None:
    page = browser.post("/settings/tokens", data={"name": "n", "scope": "read", "days": "", **form})
    assert page.status_code == 422
    assert browser.get("/api/auth/tokens").get_json() == {"tokens": []}
