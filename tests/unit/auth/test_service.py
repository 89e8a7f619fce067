from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Connection

from app.auth import store
from app.auth.limits import Buckets, MemoryRateLimiter
from app.auth.passwords import Passwords
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
    """The lines of the audit log so far."""
    caplog.set_level(logging.INFO, "audit")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "audit"]


def refusal(attempt: Callable[[], object]) -> Problem:
    with pytest.raises(Problem) as raised:
        attempt()
    return raised.value


def use_up(accounts: Accounts, email: str = EMAIL, client: Client | None = None) -> None:
    """The attempts of an account, from everywhere, or those of one client, at many accounts."""
    for number in range(LOGIN_LIMIT):
        who = f"nobody-{number}@example.org" if client else email
        with pytest.raises(WrongPassword):
            accounts.log_in(who, "wrong", client or Client(f"198.51.100.{number}"))


# Registration.


def test_who_registers_is_a_user(accounts: Accounts, ada: User) -> None:
    assert (ada.email, ada.is_admin, ada.password_version) == (EMAIL, False, 1)
    assert accounts.get(ada.id) == ada
    assert PASSWORD not in ada.password_hash
    assert accounts.get(ada.id + 1) is None


def test_an_address_is_taken_whatever_its_case(accounts: Accounts, ada: User) -> None:
    for email in (EMAIL, " ADA@Example.org "):
        assert isinstance(refusal(lambda email=email: accounts.register(email, PASSWORD, CLIENT)), Conflict)  # type: ignore[misc]


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
def test_what_is_no_address_is_refused(accounts: Accounts, email: str) -> None:
    problem = refusal(lambda: accounts.register(email, PASSWORD, CLIENT))
    assert isinstance(problem, Invalid)
    assert [error["field"] for error in problem.errors] == ["email"]


@pytest.mark.parametrize("email", ["a@b", "ada+tag@example.org", "o'hara@example.co.uk", "a" * 242 + "@example.org"])
def test_what_browsers_take_for_an_address_is_accepted(email: str) -> None:
    assert normalize_email(f" {email.upper()} ") == email


def test_a_weak_password_is_refused_before_it_costs_anything(accounts: Accounts, limiter: RecordingLimiter) -> None:
    problem = refusal(lambda: accounts.register(EMAIL, "password", CLIENT))
    assert isinstance(problem, Invalid)
    assert [error["field"] for error in problem.errors] == ["password"]
    assert limiter.buckets == []


def test_registrations_are_limited_by_address_whether_they_succeed_or_not(accounts: Accounts, ada: User) -> None:
    for _ in range(REGISTER_LIMIT - 1):
        assert isinstance(refusal(lambda: accounts.register(EMAIL, PASSWORD, CLIENT)), Conflict)
    problem = refusal(lambda: accounts.register("bob@example.org", PASSWORD, CLIENT))
    assert isinstance(problem, TooMany)
    assert int(problem.headers["Retry-After"]) in range(3500, 3601)
    assert accounts.register("bob@example.org", PASSWORD, Client("192.0.2.2")).email == "bob@example.org"


# Login.


@pytest.mark.parametrize("email", [EMAIL, "ADA@example.ORG", f" {EMAIL} "])
def test_who_knows_the_password_gets_in(accounts: Accounts, ada: User, email: str) -> None:
    assert accounts.log_in(email, PASSWORD, CLIENT) == ada


@pytest.mark.parametrize("email", ["nobody@example.org", "no address", "", "a" * 1000, "ada@example.org\0"])
def test_an_unknown_account_and_a_wrong_password_look_the_same(accounts: Accounts, ada: User, email: str) -> None:
    known, unknown = (refusal(lambda who=who: accounts.log_in(who, "wrong", CLIENT)) for who in (EMAIL, email))  # type: ignore[misc]
    assert type(known) is type(unknown) is WrongPassword
    assert vars(known) == vars(unknown)
    assert str(known) == str(unknown)
    assert isinstance(known, NotSignedIn)


def test_an_unknown_account_is_limited_like_a_known_one(accounts: Accounts, ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.auth.limits.time", Clock())  # so that both wait for as long
    for email in (EMAIL, "nobody@example.org"):
        use_up(accounts, email)
    known, unknown = (
        refusal(lambda who=who: accounts.log_in(who, "wrong", Client("203.0.113.1")))  # type: ignore[misc]
        for who in (EMAIL, "nobody@example.org")
    )
    assert type(known) is type(unknown) is TooMany
    assert vars(known) == vars(unknown)


def test_wrong_passwords_for_one_account_are_limited_from_everywhere(accounts: Accounts, ada: User) -> None:
    use_up(accounts)
    problem = refusal(lambda: accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1")))
    assert isinstance(problem, TooMany)
    assert int(problem.headers["Retry-After"]) in range(3500, 3601)


def test_wrong_passwords_from_one_address_are_limited_for_all_accounts(accounts: Accounts, ada: User) -> None:
    use_up(accounts, client=Client("203.0.113.1"))
    assert isinstance(refusal(lambda: accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1"))), TooMany)
    assert accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.2")) == ada


def test_right_passwords_are_not_limited(accounts: Accounts, ada: User) -> None:
    for _ in range(3 * LOGIN_LIMIT):
        assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == ada


def test_an_attempt_that_could_not_be_checked_does_not_count(
    accounts: Accounts, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(*_: object) -> bool:
        raise Unavailable("Too many users are signing in at this moment.")

    monkeypatch.setattr(accounts._passwords, "verify", overloaded)
    for _ in range(3 * LOGIN_LIMIT):
        assert isinstance(refusal(lambda: accounts.log_in(EMAIL, PASSWORD, CLIENT)), Unavailable)
    monkeypatch.undo()
    assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == ada


def test_the_owner_gets_in_from_a_known_device_whatever_others_try(accounts: Accounts, ada: User) -> None:
    use_up(accounts)
    use_up(accounts, client=Client("203.0.113.1"))
    assert accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1", device=(ada.id, "laptop"))) == ada


def test_a_known_device_is_limited_by_itself(accounts: Accounts, ada: User) -> None:
    laptop = Client("203.0.113.1", device=(ada.id, "laptop"))
    for _ in range(LOGIN_LIMIT):
        assert isinstance(refusal(lambda: accounts.log_in(EMAIL, "wrong", laptop)), WrongPassword)
    assert isinstance(refusal(lambda: accounts.log_in(EMAIL, PASSWORD, laptop)), TooMany)
    assert accounts.log_in(EMAIL, PASSWORD, Client("203.0.113.1", device=(ada.id, "phone"))) == ada
    assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == ada


def test_a_device_of_somebody_else_is_a_stranger(accounts: Accounts, ada: User) -> None:
    use_up(accounts)
    stranger = Client("203.0.113.1", device=(ada.id + 1, "laptop"))
    assert isinstance(refusal(lambda: accounts.log_in(EMAIL, PASSWORD, stranger)), TooMany)


def test_an_ipv6_network_is_one_address(accounts: Accounts, limiter: RecordingLimiter) -> None:
    for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:3::1"):
        with pytest.raises(WrongPassword):
            accounts.log_in("nobody@example.org", "wrong", Client(address))
    one, other, neighbour = ({name for name in names if "address" in name} for names in limiter.buckets)
    assert one == other == {"login:address:2001:db8:1:2::"}
    assert neighbour == {"login:address:2001:db8:1:3::"}


def test_an_ipv4_address_in_ipv6_notation_is_that_address(accounts: Accounts, limiter: RecordingLimiter) -> None:
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
def test_a_port_is_no_part_of_an_address_and_nonsense_is_one_address(
    accounts: Accounts, limiter: RecordingLimiter, address: str, bucket: str
) -> None:
    with pytest.raises(WrongPassword):
        accounts.log_in("nobody@example.org", "wrong", Client(address))
    assert limiter.buckets == [{"login:account:nobody@example.org", f"login:address:{bucket}"}]


def test_a_login_brings_an_outdated_hash_up_to_date(
    accounts: Accounts, ada: User, database: Database, passwords: Passwords
) -> None:
    weaker = PasswordHasher(1, 8 * 1024, 1).hash(PASSWORD)
    assert database.run(store.set_password, ada, weaker, version=1)
    user = accounts.log_in(EMAIL, PASSWORD, CLIENT)
    assert not passwords.is_outdated(user.password_hash)
    assert user.password_version == 1  # sessions stay
    assert accounts.get(ada.id) == user
    assert accounts.log_in(EMAIL, PASSWORD, CLIENT) == user


# Changing and leaving.


def test_a_new_password_takes_the_place_of_the_old_one(accounts: Accounts, ada: User) -> None:
    changed = accounts.change_password(ada, PASSWORD, NEW_PASSWORD, CLIENT)
    assert (changed.id, changed.password_version) == (ada.id, ada.password_version + 1)
    assert accounts.get(ada.id) == changed
    assert isinstance(refusal(lambda: accounts.log_in(EMAIL, PASSWORD, CLIENT)), WrongPassword)
    assert accounts.log_in(EMAIL, NEW_PASSWORD, CLIENT) == changed


@pytest.mark.parametrize(
    ("current", "new", "field"), [("wrong", NEW_PASSWORD, "current_password"), (PASSWORD, "password", "new_password")]
)
def test_a_change_needs_the_current_password_and_a_good_new_one(
    accounts: Accounts, ada: User, current: str, new: str, field: str
) -> None:
    problem = refusal(lambda: accounts.change_password(ada, current, new, CLIENT))
    assert isinstance(problem, NotConfirmed if field == "current_password" else Invalid)
    assert [error["field"] for error in problem.errors] == [field]
    assert accounts.get(ada.id) == ada


def test_of_two_changes_at_the_same_time_one_counts(accounts: Accounts, ada: User) -> None:
    changed = accounts.change_password(ada, PASSWORD, NEW_PASSWORD, CLIENT)
    assert isinstance(refusal(lambda: accounts.change_password(ada, PASSWORD, "another good one", CLIENT)), Conflict)
    assert accounts.get(ada.id) == changed


def test_who_leaves_is_gone(accounts: Accounts, ada: User) -> None:
    accounts.delete(ada, PASSWORD, CLIENT)
    assert accounts.get(ada.id) is None
    assert isinstance(refusal(lambda: accounts.log_in(EMAIL, PASSWORD, CLIENT)), WrongPassword)
    assert accounts.register(EMAIL, PASSWORD, CLIENT).id != ada.id


def test_what_else_there_is_of_an_account_goes_with_it(
    embedded: dict[str, str], database: Database, passwords: Passwords
) -> None:
    forgotten: list[int] = []

    def delete_other_data(connection: Connection, user_id: int) -> None:
        assert store.by_id(connection, user_id)
        forgotten.append(user_id)

    accounts = Accounts(config.load(embedded), database, passwords, MemoryRateLimiter(), on_delete=delete_other_data)
    ada, bob = (accounts.add_without_limit(email, PASSWORD) for email in (EMAIL, "bob@example.org"))
    accounts.delete(ada, PASSWORD, CLIENT)
    accounts.delete_without_password(bob.id)
    assert forgotten == [ada.id, bob.id]
    assert accounts.get(bob.id) is None


def test_leaving_needs_the_password(accounts: Accounts, ada: User) -> None:
    problem = refusal(lambda: accounts.delete(ada, "wrong", CLIENT))
    assert isinstance(problem, NotConfirmed)
    assert [error["field"] for error in problem.errors] == ["password"]
    assert accounts.get(ada.id) == ada


def test_a_stolen_session_does_not_guess_the_password(accounts: Accounts, ada: User) -> None:
    for number in range(LOGIN_LIMIT):
        thief = Client(f"198.51.100.{number}")
        assert isinstance(refusal(lambda thief=thief: accounts.delete(ada, "wrong", thief)), NotConfirmed)  # type: ignore[misc]
    assert isinstance(refusal(lambda: accounts.delete(ada, PASSWORD, Client("203.0.113.1"))), TooMany)


# What is noted.


def test_whatever_happens_is_noted_with_its_address(accounts: Accounts, audit: Callable[[], list[str]]) -> None:
    ada = accounts.register(EMAIL, PASSWORD, CLIENT)
    refusal(lambda: accounts.register(EMAIL, PASSWORD, CLIENT))
    accounts.log_in(EMAIL, PASSWORD, CLIENT)
    refusal(lambda: accounts.log_in(EMAIL, "wrong-password-1", CLIENT))
    refusal(lambda: accounts.change_password(ada, "wrong-password-2", NEW_PASSWORD, CLIENT))
    changed = accounts.change_password(ada, PASSWORD, NEW_PASSWORD, CLIENT)
    accounts.delete(changed, NEW_PASSWORD, CLIENT)
    use_up(accounts, "eve@example.org")
    refusal(lambda: accounts.log_in("eve@example.org", "wrong-password-3", CLIENT))
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


def test_one_account_can_be_recognised_in_the_notes(accounts: Accounts, ada: User, audit: Callable[[], list[str]]) -> None:
    for email in (EMAIL, EMAIL.upper(), "bob@example.org"):
        with pytest.raises(WrongPassword):
            accounts.log_in(email, "wrong", CLIENT)
    one, same, other = (line.partition("account=")[2] for line in audit()[-3:])
    assert one == same != other


def test_logins_are_counted_by_outcome(accounts: Accounts, ada: User) -> None:
    def counted() -> list[float]:
        return [
            count_of("reporadar_auth_attempts_total", kind="login", outcome=outcome)
            for outcome in ("succeeded", "failed", "limited")
        ]

    before = counted()
    accounts.log_in(EMAIL, PASSWORD, CLIENT)
    use_up(accounts)
    refusal(lambda: accounts.log_in(EMAIL, PASSWORD, CLIENT))
    assert [after - earlier for after, earlier in zip(counted(), before, strict=True)] == [1, LOGIN_LIMIT, 1]
