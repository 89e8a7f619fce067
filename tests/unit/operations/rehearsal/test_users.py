"""The users of a rehearsal are deleted at the end, whatever happens."""

from __future__ import annotations

import pytest

from app.core.errors import Unavailable
from app.operations.rehearsal import users as module
from app.operations.rehearsal.users import rehearsal_users


class FakeAccounts:
    """Accounts in memory. The first `failures` deletions fail, and so does the sixth registration."""

    def __init__(self, failures: int = 0) -> None:
        self.emails: dict[int, str] = {}
        self.output: list[str] = []
        self._failures = failures

    def register(self, email: str, _password: str) -> int:
        if len(self.emails) == 5:
            raise Unavailable("The database does not answer.")
        number = len(self.emails) + 1
        self.emails[number] = email
        return number

    def delete(self, user_id: int) -> None:
        if self._failures:
            self._failures -= 1
            raise Unavailable("The database does not answer.")
        del self.emails[user_id]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELETION_RETRY_SECONDS", 0.0)


def test_users_are_deleted_after_an_exception() -> None:
    accounts = FakeAccounts()

    def use() -> None:
        with rehearsal_users(3, accounts.register, accounts.delete, accounts.output.append) as created:
            assert [user.id for user in created] == [1, 2, 3]
            assert len(accounts.emails) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert accounts.emails == {}


def test_users_are_deleted_if_a_later_registration_fails() -> None:
    accounts = FakeAccounts()
    with pytest.raises(Unavailable), rehearsal_users(9, accounts.register, accounts.delete, accounts.output.append):
        raise AssertionError("not reached")
    assert accounts.emails == {}


def test_deletion_is_retried_while_the_store_is_unavailable() -> None:
    accounts = FakeAccounts(failures=4)
    with rehearsal_users(3, accounts.register, accounts.delete, accounts.output.append):
        pass
    assert (accounts.emails, accounts.output) == ({}, [])


def test_users_that_could_not_be_deleted_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELETION_SECONDS", 0)
    accounts = FakeAccounts(failures=9)
    with rehearsal_users(3, accounts.register, accounts.delete, accounts.output.append):
        pass
    prefix = accounts.emails[1].rpartition("-")[0]
    (output,) = accounts.output
    assert output.startswith('3 rehearsal users were not deleted. Delete them: psql "$DATABASE_URL" -c ')
    assert f"email LIKE '{prefix}-%'" in output


def test_users_that_remain_after_a_signal_are_reported() -> None:
    accounts = FakeAccounts()

    def delete(user_id: int) -> None:
        if user_id == 2:
            raise KeyboardInterrupt
        accounts.delete(user_id)

    with pytest.raises(KeyboardInterrupt), rehearsal_users(3, accounts.register, delete, accounts.output.append):
        pass
    (output,) = accounts.output
    assert output.startswith("2 rehearsal users were not deleted.")
