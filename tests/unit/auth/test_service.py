from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Connection

from app.auth import store
from app.auth.limits import Buckets, MemoryRateLimiter
from app.auth.passwords import LANES, MEMORY_KIB, PASSES, Passwords
from app.auth.service import Accounts, Client, NotConfirmed, WrongPassword, normalize_email
from app.auth.store import User
from app.core import config
from app.core.errors import Conflict, Invalid, NotSignedIn, Problem, TooMany, Unavailable
from app.database.engine import Database
from tests.unit.conftest import Clock, count_of

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
NEW_PASSWORD = "staple paper clip"
CLIENT = Client("192.0.2.1")
LOGIN_LIMIT, REGISTER_LIMIT = 3, 4
ADDRESS_LIMIT = 10 * LOGIN_LIMIT


class RecordingLimiter(MemoryRateLimiter):
    """A rate limiter that records the buckets of each attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.buckets: list[set[str]] = []

    def acquire(self, buckets: Buckets, token: str) -> int:
        self.buckets.append(set(buckets))
        return super().acquire(buckets, token)


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords()


@pytest.fixture
def limiter() -> RecordingLimiter:
    return RecordingLimiter()


@pytest.fixture
def accounts(embedded: dict[str, str], database: Database, passwords: Passwords, limiter: RecordingLimiter) -> Accounts:
    rates = {"RATE_LIMIT_LOGIN": f"{LOGIN_LIMIT}/h", "RATE_LIMIT_REGISTER": f"{REGISTER_LIMIT}/h"}
    return Accounts(config.load({**embedded, **rates}), database, passwords, limiter)


@pytest.fixture
def ada(accounts: Accounts) -> User:
    return accounts.register(EMAIL, PASSWORD, CLIENT)


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines of the audit log."""
    caplog.set_level(logging.INFO, "audit")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "audit"]


def problem_of(attempt: Callable[[], object]) -> Problem:
    with pytest.raises(Problem) as raised:
        attempt()
    return raised.value


def exhaust_limit(accounts: Accounts, email: str = EMAIL, client: Client | None = None) -> None:
    """Fill the bucket of an account, or of a client."""
    for number in range(ADDRESS_LIMIT if client else LOGIN_LIMIT):
        who = f"nobody-{number}@example.org" if client else email
        with pytest.raises(WrongPassword):
            accounts.log_in(who, "wrong", client or Client(f"198.51.100.{number}"))


# Registration.


def test_registration_creates_a_user(accounts: Accounts, ada: User) -> None:
    assert (ada.email, ada.is_admin, ada.password_version) == (EMAIL, False, 1)
    assert accounts.get(ada.id) == ada
    assert PASSWORD not in ada.password_hash
    assert accounts.get(ada.id + 1) is None


def test_email_address_is_unique_ignoring_case(accounts: Accounts, ada: User) -> None:
    for email in (EMAIL, " ADA@Example.org "):
        assert isinstance(problem_of(lambda email=email: accounts.register(email, PASSWORD, CLIENT)), Conflict)  # type: ignore[misc]


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.org",
        "ada@example..org",
        "ada@-example.org",
        "ada lovelace@example.org",
        "ada@example.org\n.evil",
        "ada@exämple.org",
        "ada@example.org,bob@example.org",
        "a" * 243 + "@example.org",
    ],
)
def test_invalid_email_address_is_rejected(accounts: Accounts, email: str) -> None:
    problem = problem_of(lambda: accounts.register(email, PASSWORD, CLIENT))
    assert isinstance(problem, Invalid)
    assert [error["field"] for error in problem.errors] == ["email"]


@pytest.mark.parametrize("email", ["a@b", "ada+tag@example.org", "o'hara@example.co.uk", "a" * 242 + "@example.org"])
def test_email_address_that_browsers_accept_is_accepted(email: str) -> None:
    assert normalize_email(f" {email.upper()} ") == email


def test_weak_password_is_rejected_before_the_rate_limit(accounts: Accounts, limiter: RecordingLimiter) -> None:
    problem = problem_of(lambda: accounts.register(EMAIL, "password", CLIENT))
    assert isinstance(problem, Invalid)
    assert [error["field"] for error in problem.errors] == ["password"]
    assert limiter.buckets == []


def test_failed_and_successful_registrations_are_limited_by_address(accounts: Accounts, ada: User) -> None:
    for _ in range(REGISTER_LIMIT - 1):
        assert isinstance(problem_of(lambda: accounts.register(EMAIL, PASSWORD, CLIENT)), Conflict)
    problem = problem_of(lambda: accounts.register("bob@example.org", PASSWORD, CLIENT))
    assert isinstance(problem, TooMany)
    assert int(problem.headers["Retry-After"]) in range(3500, 3601)
    assert accounts.register("bob@example.org", PASSWORD, Client("192.0.2.2")).email == "bob@example.org"


@pytest.mark.parametrize("error", [Unavailable("The database does not answer."), Invalid("no such text"), ZeroDivisionError()])
@pytest.mark.parametrize("part", ["_passwords", "_database"])
def test_registration_that_did_not_happen_does_not_count(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(getattr(accounts, part), "hash" if part == "_passwords" else "run", fail)
    for _ in range(2 * REGISTER_LIMIT):
        with pytest.raises(type(error)):
            accounts.register(EMAIL, PASSWORD, CLIENT)
    monkeypatch.undo()
    assert accounts.register(EMAIL, PASSWORD, CLIENT).email == EMAIL


# Login.


@pytest.mark.parametrize("email", [EMAIL, "ADA@example.ORG", f" {EMAIL} "])
def test_login_with_the_password_succeeds(accounts: Accounts, ada: User, email: str) -> None:
    assert accounts.log_in(email, PASSWORD, CLIENT) == ada


@pytest.mark.parametrize("email", ["nobody@example.org", "no address", "", "a" * 1000, "ada@example.org\0"])
def test_unknown_account_and_wrong_password_have_the_same_error(accounts: Accounts, ada: User, email: str) -> None:
    known, unknown = (problem_of(lambda who=who: accounts.log_in(who, "wrong", CLIENT)) for who in (EMAIL, email))  # type: ignore[misc]
    assert type(known) is type(unknown) is WrongPassword
    assert vars(known) == vars(unknown)
    assert str(known) == str(unknown)
    assert isinstance(known, NotSignedIn)


def test_unknown_account_is_limited_like_a_known_one(accounts: Accounts, ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.auth.limits.time", Clock())  # so that both wait for as long
    for email in (EMAIL, "nobody@example.org"):
        exhaust_limit(accounts, email)
    known, unknown = (
        problem_of(lambda who=who: accounts.log_in(who, "wrong", Client("203.0.113.1")))  # type: ignore[misc]
        for who in (EMAIL, "nobody@example.org")
    )
    assert type(known) is type(unknown) is TooMany
    assert vars(known) == vars(unknown)


def test_failed_logins_are_limited_per_account(accounts: Accounts, ada: User) -> None:
    exhaust_limit(accounts)
    problem = problem_of(lambda: accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1")))
    assert isinstance(problem, TooMany)
    assert int(problem.headers["Retry-After"]) in range(3500, 3601)


def test_failed_logins_are_limited_per_address(accounts: Accounts, ada: User) -> None:
    exhaust_limit(accounts, client=Client("203.0.113.1"))
    assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1"))), TooMany)
    assert accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.2")) == ada


def test_successful_logins_are_not_limited(accounts: Accounts, ada: User) -> None:
    for _ in range(3 * LOGIN_LIMIT):
        assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == ada


@pytest.mark.parametrize("error", [Unavailable("Too many users are signing in at this moment."), ZeroDivisionError()])
def test_unchecked_attempt_does_not_count(
    accounts: Accounts, ada: User, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> bool:
        raise error

    monkeypatch.setattr(accounts._passwords, "verify", fail)
    for _ in range(3 * LOGIN_LIMIT):
        with pytest.raises(type(error)):
            accounts.log_in(EMAIL, PASSWORD, CLIENT)
    monkeypatch.undo()
    assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == ada


def test_known_device_is_not_limited_by_other_clients(accounts: Accounts, ada: User) -> None:
    exhaust_limit(accounts)
    exhaust_limit(accounts, client=Client("203.0.113.1"))
    assert accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1", device=(ada.id, "laptop"))) == ada


def test_known_device_has_its_own_limit(accounts: Accounts, ada: User) -> None:
    laptop = Client("203.0.113.1", device=(ada.id, "laptop"))
    for _ in range(LOGIN_LIMIT):
        assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, "wrong", laptop)), WrongPassword)
    assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, PASSWORD, laptop)), TooMany)
    assert accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1", device=(ada.id, "phone"))) == ada
    assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == ada


def test_device_of_another_user_is_unknown(accounts: Accounts, ada: User) -> None:
    exhaust_limit(accounts)
    stranger = Client("203.0.113.1", device=(ada.id + 1, "laptop"))
    assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, PASSWORD, stranger)), TooMany)


def test_ipv6_network_counts_as_one_address(accounts: Accounts, limiter: RecordingLimiter) -> None:
    for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:3::1"):
        with pytest.raises(WrongPassword):
            accounts.log_in("nobody@example.org", "wrong", Client(address))
    one, other, neighbour = ({name for name in names if "address" in name} for names in limiter.buckets)
    assert one == other == {"login:address:2001:db8:1:2::"}
    assert neighbour == {"login:address:2001:db8:1:3::"}


def test_ipv4_mapped_address_counts_as_ipv4(accounts: Accounts, limiter: RecordingLimiter) -> None:
    for address in ("::ffff:192.0.2.1", "::ffff:192.0.2.2", "192.0.2.1"):
        with pytest.raises(WrongPassword):
            accounts.log_in("nobody@example.org", "wrong", Client(address))
    one, other, plain = ({name for name in names if "address" in name} for names in limiter.buckets)
    assert one != other
    assert one == plain


@pytest.mark.parametrize(
    ("address", "bucket"),
    [
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8:1:2::1]:4711", "2001:db8:1:2::"),
        ("[2001:db8:1:2::1]", "2001:db8:1:2::"),
        ("", "unknown"),
        ("somewhere", "unknown"),
        ("192.0.2.1:4711:4711", "unknown"),
    ],
)
def test_port_is_ignored_and_invalid_addresses_count_as_one(
    accounts: Accounts, limiter: RecordingLimiter, address: str, bucket: str
) -> None:
    with pytest.raises(WrongPassword):
        accounts.log_in("nobody@example.org", "wrong", Client(address))
    assert limiter.buckets == [{"login:account:nobody@example.org", f"login:address:{bucket}"}]


def test_login_updates_an_outdated_hash(accounts: Accounts, ada: User, database: Database, passwords: Passwords) -> None:
    weaker = PasswordHasher(1, 8 * 1024, 1).hash(PASSWORD)
    assert database.run(store.set_password, ada, weaker, version=1)
    user = accounts.log_in(EMAIL, PASSWORD, CLIENT)
    assert not passwords.is_outdated(user.password_hash)
    assert user.password_version == 1  # sessions stay
    assert accounts.get(ada.id) == user
    assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == user


NFC, NFD = "pâté-crème brûlée", "pa\u0302te\u0301-cre\u0300me bru\u0302le\u0301e"


def test_login_with_another_encoding_of_the_password_succeeds(accounts: Accounts) -> None:
    ada = accounts.register(EMAIL, NFC, CLIENT)
    assert accounts.log_in(EMAIL, NFD, CLIENT) == ada
    changed = accounts.change_password(ada, NFD, NEW_PASSWORD + NFD, CLIENT)
    accounts.delete(changed, NEW_PASSWORD + NFC, CLIENT)


def test_login_renews_a_hash_of_the_password_as_typed(accounts: Accounts, ada: User, database: Database) -> None:
    assert database.run(store.set_password, ada, PasswordHasher(PASSES, MEMORY_KIB, LANES).hash(NFD), version=1)
    assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, NFC, CLIENT)), WrongPassword)
    user = accounts.log_in(EMAIL, NFD, CLIENT)
    assert user.password_version == 1  # sessions stay
    assert accounts.log_in(EMAIL, NFC, CLIENT) == accounts.log_in(EMAIL, NFD, CLIENT) == accounts.get(ada.id) == user


def test_two_forms_of_a_password_are_one_attempt(accounts: Accounts, ada: User, limiter: RecordingLimiter) -> None:
    for _ in range(LOGIN_LIMIT):
        assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, NFD, CLIENT)), WrongPassword)
    assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, NFD, CLIENT)), TooMany)


# Password change and deletion.


def test_changed_password_replaces_the_old_one(accounts: Accounts, ada: User) -> None:
    changed = accounts.change_password(ada, PASSWORD, NEW_PASSWORD, CLIENT)
    assert (changed.id, changed.password_version) == (ada.id, ada.password_version + 1)
    assert accounts.get(ada.id) == changed
    assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, PASSWORD, CLIENT)), WrongPassword)
    assert accounts.log_in(EMAIL, NEW_PASSWORD, CLIENT) == changed


@pytest.mark.parametrize(
    ("current", "new", "field"), [("wrong", NEW_PASSWORD, "current_password"), (PASSWORD, "password", "new_password")]
)
def test_change_requires_the_current_and_a_valid_new_password(
    accounts: Accounts, ada: User, current: str, new: str, field: str
) -> None:
    problem = problem_of(lambda: accounts.change_password(ada, current, new, CLIENT))
    assert isinstance(problem, NotConfirmed if field == "current_password" else Invalid)
    assert [error["field"] for error in problem.errors] == [field]
    assert accounts.get(ada.id) == ada


def test_second_concurrent_change_conflicts(accounts: Accounts, ada: User) -> None:
    changed = accounts.change_password(ada, PASSWORD, NEW_PASSWORD, CLIENT)
    assert isinstance(problem_of(lambda: accounts.change_password(ada, PASSWORD, "another good one", CLIENT)), Conflict)
    assert accounts.get(ada.id) == changed


def test_deleted_account_does_not_exist(accounts: Accounts, ada: User) -> None:
    accounts.delete(ada, PASSWORD, CLIENT)
    assert accounts.get(ada.id) is None
    assert isinstance(problem_of(lambda: accounts.log_in(EMAIL, PASSWORD, CLIENT)), WrongPassword)
    assert accounts.register(EMAIL, PASSWORD, CLIENT).id != ada.id


def test_deletion_deletes_other_data_in_the_same_transaction(
    embedded: dict[str, str], database: Database, passwords: Passwords
) -> None:
    forgotten: list[int] = []

    def delete_other_data(connection: Connection, user_id: int) -> None:
        assert store.by_id(connection, user_id)
        forgotten.append(user_id)

    accounts = Accounts(config.load(embedded), database, passwords, MemoryRateLimiter(), on_deletion=[delete_other_data])
    ada, bob = (accounts.add_without_limit(email, PASSWORD) for email in (EMAIL, "bob@example.org"))
    accounts.delete(ada, PASSWORD, CLIENT)
    accounts.delete_without_password(bob.id)
    assert forgotten == [ada.id, bob.id]
    assert accounts.get(bob.id) is None


def test_deletion_requires_the_password(accounts: Accounts, ada: User) -> None:
    problem = problem_of(lambda: accounts.delete(ada, "wrong", CLIENT))
    assert isinstance(problem, NotConfirmed)
    assert [error["field"] for error in problem.errors] == ["password"]
    assert accounts.get(ada.id) == ada


def test_password_confirmations_are_limited(accounts: Accounts, ada: User) -> None:
    for number in range(LOGIN_LIMIT):
        thief = Client(f"198.51.100.{number}")
        assert isinstance(problem_of(lambda thief=thief: accounts.delete(ada, "wrong", thief)), NotConfirmed)  # type: ignore[misc]
    assert isinstance(problem_of(lambda: accounts.delete(ada, PASSWORD, Client("203.0.113.1"))), TooMany)


# Audit log.


def test_each_event_is_logged_with_the_address(accounts: Accounts, audit: Callable[[], list[str]]) -> None:
    ada = accounts.register(EMAIL, PASSWORD, CLIENT)
    problem_of(lambda: accounts.register(EMAIL, PASSWORD, CLIENT))
    accounts.log_in(EMAIL, PASSWORD, CLIENT)
    problem_of(lambda: accounts.log_in(EMAIL, "wrong-password-1", CLIENT))
    problem_of(lambda: accounts.change_password(ada, "wrong-password-2", NEW_PASSWORD, CLIENT))
    changed = accounts.change_password(ada, PASSWORD, NEW_PASSWORD, CLIENT)
    accounts.delete(changed, NEW_PASSWORD, CLIENT)
    exhaust_limit(accounts, "eve@example.org")
    problem_of(lambda: accounts.log_in("eve@example.org", "wrong-password-3", CLIENT))
    lines = audit()
    assert [line.split()[0] for line in lines] == [
        "registration.succeeded",
        "registration.refused",
        "login.succeeded",
        "login.failed",
        "confirmation.failed",
        "password.changed",
        "account.deleted",
        *["login.failed"] * LOGIN_LIMIT,
        "login.limited",
    ]
    assert all("address=192.0.2.1" in line for line in lines if "198.51" not in line)
    assert f"user={ada.id}" in lines[0]
    for word in (EMAIL, "ada", "eve", PASSWORD, NEW_PASSWORD, "wrong-password", "argon2"):
        assert word not in "\n".join(lines)


def test_account_has_one_digest_in_the_log(accounts: Accounts, ada: User, audit: Callable[[], list[str]]) -> None:
    for email in (EMAIL, EMAIL.upper(), "bob@example.org"):
        with pytest.raises(WrongPassword):
            accounts.log_in(email, "wrong", CLIENT)
    one, same, other = (line.partition("account=")[2] for line in audit()[-3:])
    assert one == same != other


def test_login_metric_is_counted_by_outcome(accounts: Accounts, ada: User) -> None:
    def counted() -> list[float]:
        return [
            count_of("reporadar_auth_attempts_total", kind="login", outcome=outcome)
            for outcome in ("succeeded", "failed", "limited")
        ]

    before = counted()
    accounts.log_in(EMAIL, PASSWORD, CLIENT)
    exhaust_limit(accounts)
    problem_of(lambda: accounts.log_in(EMAIL, PASSWORD, CLIENT))
    assert [after - earlier for after, earlier in zip(counted(), before, strict=True)] == [1, LOGIN_LIMIT, 1]
