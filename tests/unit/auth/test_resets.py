"""Setting a new password under a link, from the command line and by mail."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import gevent
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from werkzeug.test import TestResponse

from app.auth import reset_store, resets, store
from app.auth.limits import MemoryRateLimiter
from app.auth.passwords import Passwords
from app.auth.resets import InvalidLink, PasswordResets
from app.auth.tokens import READ, ApiTokens, InvalidToken
from app.core import config
from app.core.errors import Invalid, TooMany, Unavailable
from app.core.mail import Mailer, MailError
from app.database.engine import Database
from app.database.schema import password_resets
from harness.greenlets import until
from harness.mail import MailServer
from harness.processes import PATIENCE_SECONDS
from tests.unit.conftest import MakeApp

EMAIL, PASSWORD, NEW_PASSWORD = "ada@example.org", "correct horse battery", "four eager otters"
ADDRESS = "192.0.2.1"
SITE = "https://radar.example.org"


class Outbox(Mailer):
    """Keeps mails instead of sending them. Fails as often as `failures` says."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []
        self.failures = 0

    def send(self, recipient: str, _subject: str, text: str, *, message_id: str | None = None) -> None:
        if self.failures:
            self.failures -= 1
            raise MailError("the mail server does not answer in time")
        self.mails.append((recipient, text))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def service(embedded: dict[str, str], both: Database, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> PasswordResets:
    monkeypatch.setattr(resets, "RESPONSE_FIRST_SECONDS", 0)
    monkeypatch.setattr(resets, "RETRY_SECONDS", (0, 0))
    return PasswordResets(config.load({**embedded, "PUBLIC_URL": SITE}), both, Passwords(), MemoryRateLimiter(), outbox)


@pytest.fixture
def ada(both: Database) -> store.User:
    return both.run(store.add, EMAIL, Passwords().hash(PASSWORD))


def secret_of(link: str | None) -> str:
    assert link
    assert link.startswith(f"{SITE}/reset-password?token=")
    return link.partition("=")[2]


def expire(database: Database) -> None:
    past = update(password_resets).values(expires_at=datetime.now(UTC) - timedelta(milliseconds=1))
    database.run(lambda connection: connection.execute(past))


def links(database: Database) -> int:
    return database.run(lambda connection: connection.execute(select(func.count()).select_from(password_resets)).scalar_one())


# Links.


def test_link_sets_a_password_once(both: Database, service: PasswordResets, ada: store.User) -> None:
    secret = secret_of(service.create_link(EMAIL))
    assert service.user_of(secret) == ada
    changed = service.set_password(secret, NEW_PASSWORD, ADDRESS)
    assert changed == both.run(store.by_id, ada.id)
    assert changed.password_version == ada.password_version + 1
    assert Passwords().verify(changed.password_hash, NEW_PASSWORD)
    with pytest.raises(InvalidLink):
        service.user_of(secret)
    with pytest.raises(InvalidLink):
        service.set_password(secret, PASSWORD, ADDRESS)
    assert both.run(store.by_id, ada.id) == changed


def test_link_sets_one_password_however_often_it_is_used_at_once(
    both: Database, service: PasswordResets, ada: store.User, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secret_of(service.create_link(EMAIL))
    waiting: list[str] = []
    outcomes: list[int] = []

    def hash_when_all_have_checked_the_link(password: str) -> str:
        waiting.append(password)
        while len(waiting) < 4:
            gevent.sleep(0)
        return "hash"

    def use() -> None:
        try:
            outcomes.append(service.set_password(secret, NEW_PASSWORD, ADDRESS).password_version)
        except InvalidLink:
            outcomes.append(0)

    monkeypatch.setattr(service._passwords, "hash", hash_when_all_have_checked_the_link)
    gevent.joinall([gevent.spawn(use) for _ in range(4)], timeout=PATIENCE_SECONDS)
    assert sorted(outcomes) == [0, 0, 0, ada.password_version + 1]


def test_link_expires(both: Database, service: PasswordResets, ada: store.User) -> None:
    secret = secret_of(service.create_link(EMAIL))
    expires_at = both.run(lambda connection: connection.execute(select(password_resets.c.expires_at)).scalar_one())
    assert timedelta(minutes=59) < expires_at - datetime.now(UTC) <= timedelta(hours=1)
    expire(both)
    with pytest.raises(InvalidLink):
        service.set_password(secret, NEW_PASSWORD, ADDRESS)
    service.create_link(EMAIL)
    assert links(both) == 1, "the expired one was deleted"


def test_password_change_voids_earlier_links(both: Database, service: PasswordResets, ada: store.User) -> None:
    first, second = secret_of(service.create_link(EMAIL)), secret_of(service.create_link(EMAIL))
    service.set_password(second, NEW_PASSWORD, ADDRESS)
    with pytest.raises(InvalidLink):
        service.set_password(first, PASSWORD, ADDRESS)


def test_link_of_a_deleted_account_is_void(both: Database, service: PasswordResets, ada: store.User) -> None:
    secret = secret_of(service.create_link(EMAIL))
    both.run(store.remove, ada.id)
    assert links(both) == 0
    with pytest.raises(InvalidLink):
        service.set_password(secret, NEW_PASSWORD, ADDRESS)


@pytest.mark.parametrize("secret", ["", "a" * 43, "\0" * 43, "é" * 43, "a" * 5000])
def test_unknown_link_is_refused(service: PasswordResets, ada: store.User, secret: str) -> None:
    with pytest.raises(InvalidLink):
        service.user_of(secret)


def test_weak_password_does_not_use_up_the_link(service: PasswordResets, ada: store.User) -> None:
    secret = secret_of(service.create_link(EMAIL))
    with pytest.raises(Invalid) as raised:
        service.set_password(secret, "password", ADDRESS)
    assert raised.value.errors[0]["field"] == "new_password"
    assert service.set_password(secret, NEW_PASSWORD, ADDRESS)


def test_only_the_digest_of_a_link_is_stored(both: Database, service: PasswordResets, ada: store.User) -> None:
    secret = secret_of(service.create_link(EMAIL))
    rows = both.run(lambda connection: connection.execute(select(password_resets)).all())
    assert secret not in str(rows)
    assert both.run(reset_store.user_of, secret, datetime.now(UTC)) is None


def test_reset_revokes_api_tokens(both: Database, service: PasswordResets, ada: store.User) -> None:
    tokens = ApiTokens(both, MemoryRateLimiter())
    _, token = tokens.create(ada.id, "build server", READ, None, ADDRESS)
    service.set_password(secret_of(service.create_link(EMAIL)), NEW_PASSWORD, ADDRESS)
    with pytest.raises(InvalidToken):
        tokens.authenticate(token, ADDRESS)


# Mail.


def test_mail_goes_to_the_account_only_if_there_is_one(service: PasswordResets, ada: store.User, outbox: Outbox) -> None:
    service.request(EMAIL, ADDRESS)
    service.request("nobody@example.org", ADDRESS)
    assert outbox.mails == [], "nothing is sent before the response"
    service.close()
    ((recipient, text),) = outbox.mails
    assert recipient == EMAIL
    (link,) = re.findall(r"^https://.*$", text, re.MULTILINE)
    assert service.user_of(secret_of(link)) == ada


def test_mail_is_sent_again_after_a_failure(service: PasswordResets, ada: store.User, outbox: Outbox) -> None:
    outbox.failures = 2
    service.request(EMAIL, ADDRESS)
    service.close()
    assert len(outbox.mails) == 1


def test_mail_is_dropped_after_three_failures(
    service: PasswordResets, ada: store.User, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.failures = 3
    service.request(EMAIL, ADDRESS)
    service.close()
    assert outbox.mails == []
    assert caplog.messages[-1] == "dropped mail for a password reset: the mail server does not answer in time"


def test_stop_does_not_wait_for_the_mail_server(
    service: PasswordResets, outbox: Outbox, ada: store.User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resets, "CLOSE_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "send", lambda *_: gevent.sleep(60))
    service.request(EMAIL, ADDRESS)
    service.close()
    assert caplog.messages[-1] == "dropped 1 mails for password resets"


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.org"])
def test_requests_are_limited_for_each_account(service: PasswordResets, ada: store.User, email: str) -> None:
    for number in range(3):
        service.request(email, f"198.51.100.{number}")
    with pytest.raises(TooMany) as raised:
        service.request(email, "203.0.113.1")
    assert 3500 < int(raised.value.headers["Retry-After"]) <= 3600


def test_address_that_many_share_has_ten_times_the_limit_of_an_account(service: PasswordResets) -> None:
    for number in range(30):
        service.request(f"user-{number}@example.org", ADDRESS)
    with pytest.raises(TooMany):
        service.request("one-more@example.org", ADDRESS)
    service.request("one-more@example.org", "203.0.113.1")


def test_number_of_mails_at_once_is_limited(service: PasswordResets) -> None:
    for number in range(resets.MAX_SENDING):
        service.request(f"user-{number}@example.org", f"198.51.100.{number}")
    with pytest.raises(Unavailable):
        service.request("one-more@example.org", ADDRESS)
    service.close()
    until(lambda: not service._sending.full())
    service.request("one-more@example.org", ADDRESS)


def test_log_names_no_address_and_no_secret(service: PasswordResets, ada: store.User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        service.request(EMAIL, ADDRESS)
    with pytest.raises(TooMany):
        service.request(EMAIL, ADDRESS)
    secret = secret_of(service.create_link(EMAIL))
    service.set_password(secret, NEW_PASSWORD, ADDRESS)
    lines = [record.getMessage() for record in caplog.records if record.name == "audit"]
    names = ["password.reset_requested"] * 3 + ["password.reset_limited", "password.reset"]
    assert [line.split()[0] for line in lines] == names
    assert all(f"address={ADDRESS}" in line for line in lines)
    assert lines[-1].endswith(f" user={ada.id}")
    for word in ("ada", secret, NEW_PASSWORD):
        assert word not in caplog.text


# The command.


def test_command_prints_a_link(app: Flask, client: FlaskClient) -> None:
    client.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    result = app.test_cli_runner().invoke(args=["users", "reset-link", f" {EMAIL.upper()} "])
    assert result.exit_code == 0, result.output
    (link,) = result.stdout.split()
    assert link.startswith("http://localhost:")
    assert "PUBLIC_URL is not set" in result.stderr
    assert client.get(urlsplit(link)._replace(scheme="", netloc="").geturl()).status_code == 200


def test_command_names_the_site_and_unknown_accounts(make_app: MakeApp) -> None:
    app = make_app(PUBLIC_URL=SITE)
    app.test_client().post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    result = app.test_cli_runner().invoke(args=["users", "reset-link", EMAIL])
    assert result.stdout.startswith(f"{SITE}/reset-password?token=")
    assert result.stderr == ""
    unknown = app.test_cli_runner().invoke(args=["users", "reset-link", "bob@example.org"])
    assert unknown.exit_code == 1
    assert "there is no account with the e-mail address bob@example.org" in unknown.stderr


# The pages.


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def with_mail(make_app: MakeApp, mail_server: MailServer) -> Flask:
    return make_app(PUBLIC_URL=SITE, SMTP_URL=f"smtp://127.0.0.1:{mail_server.port}")


@pytest.fixture
def reset_path(app: Flask) -> Callable[[], str]:
    """Return the path of a new link for ada."""

    def create() -> str:
        link = app.extensions["password_resets"].create_link(EMAIL)
        return str(link).removeprefix("http://localhost:3000")

    return create


def test_pages_lead_from_sign_in_to_a_new_password(with_mail: Flask, mail_server: MailServer) -> None:
    browser = with_mail.test_client()
    browser.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    browser.post("/logout")
    assert 'href="/forgot-password"' in browser.get("/login").text
    assert "Send the link" in browser.get("/forgot-password").text
    assert browser.post("/forgot-password", data={"email": f" {EMAIL.upper()}"}).location == "/login?done=mail"
    assert "If there is an account" in browser.get("/login?done=mail").text
    with_mail.extensions["password_resets"].close()
    (mail,) = mail_server.messages()
    assert (mail["To"], mail["From"]) == (EMAIL, "RepoRadar <reporadar@radar.example.org>")
    link = re.findall(r"https://\S+", mail.get_content())[0]
    page = browser.get(link.removeprefix(SITE))
    assert EMAIL in page.text
    form = {"token": link.partition("=")[2], "new_password": NEW_PASSWORD}
    assert browser.post("/reset-password", data=form).location == "/login?done=reset"
    assert browser.post("/login", data={"email": EMAIL, "password": NEW_PASSWORD}).location == "/"


def test_answer_is_the_same_for_unknown_accounts(with_mail: Flask) -> None:
    with_mail.test_client().post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})

    def answer(email: str) -> tuple[int, str, dict[str, str]]:
        response = with_mail.test_client().post("/forgot-password", data={"email": email})
        return response.status_code, response.text, {**response.headers, "X-Request-Id": ""}

    assert answer(EMAIL) == answer("nobody@example.org")
    for email in (EMAIL, "nobody@example.org"):
        assert [answer(email)[0] for _ in range(3)] == [303, 303, 429]
    assert answer("no address")[0] == 422


def test_nothing_is_offered_without_a_mail_server(client: FlaskClient) -> None:
    assert "forgot-password" not in client.get("/login").text
    assert client.get("/forgot-password").status_code == 404
    assert client.post("/forgot-password", data={"email": EMAIL}).status_code == 404


def set_password(browser: FlaskClient, path: str, password: str = NEW_PASSWORD) -> TestResponse:
    return browser.post("/reset-password", data={"token": path.partition("=")[2], "new_password": password})


def test_new_password_ends_all_sessions(app: Flask, client: FlaskClient, reset_path: Callable[[], str]) -> None:
    client.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    other = app.test_client()
    other.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD})
    token = other.post("/api/auth/tokens", json={"name": "n"}).get_json()["token"]
    assert set_password(client, reset_path()).status_code == 303
    assert [browser.get("/api/auth/me").status_code for browser in (client, other)] == [401, 401]
    assert other.get("/api/repositories", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    for password, status in ((PASSWORD, 401), (NEW_PASSWORD, 200)):
        assert other.post("/api/auth/login", json={"email": EMAIL, "password": password}).status_code == status


def test_owner_can_sign_in_after_a_reset_while_somebody_guesses(make_app: MakeApp, reset_path: Callable[[], str]) -> None:
    app = make_app(RATE_LIMIT_LOGIN="1/h")
    app.test_client().post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    owner, stranger = app.test_client(), app.test_client()
    login = {"email": EMAIL, "password": NEW_PASSWORD}
    assert [stranger.post("/api/auth/login", json=login).status_code for _ in range(2)] == [401, 429]
    assert set_password(owner, reset_path()).status_code == 303
    assert stranger.post("/api/auth/login", json=login).status_code == 429
    assert owner.post("/api/auth/login", json=login).status_code == 200


def test_page_of_a_link_keeps_its_address_secret(app: Flask, client: FlaskClient, reset_path: Callable[[], str]) -> None:
    client.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    path = reset_path()
    for page in (client.get(path), set_password(client, path, "short"), client.get("/reset-password?token=x")):
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "strict-origin"
        assert "<script" not in page.text
    assert client.get(path).status_code == 200, "looking at the page does not use up the link"


def test_used_link_is_gone(client: FlaskClient, reset_path: Callable[[], str]) -> None:
    client.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    path = reset_path()
    refused = set_password(client, path, "short")
    assert (refused.status_code, "Use at least 8 characters." in refused.text) == (422, True)
    assert set_password(client, path).status_code == 303
    for page in (client.get(path), set_password(client, path), client.get("/reset-password")):
        assert page.status_code == 410
        assert "This link has been used" in page.text
        assert EMAIL not in page.text


def test_form_of_another_site_is_refused(client: FlaskClient, reset_path: Callable[[], str]) -> None:
    client.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    path, foreign = reset_path(), {"Origin": "https://other.example"}
    form = {"token": path.partition("=")[2], "new_password": NEW_PASSWORD}
    assert client.post("/reset-password", data=form, headers=foreign).status_code == 403
    assert client.get(path).status_code == 200


def test_password_managers_find_the_form(client: FlaskClient) -> None:
    response = client.get("/.well-known/change-password")
    assert (response.status_code, response.location) == (302, "/settings#password-part")
    client.post("/api/auth/register", json={"email": EMAIL, "password": PASSWORD})
    assert 'id="password-part"' in client.get("/settings").text
