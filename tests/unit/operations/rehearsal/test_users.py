"""The users of a rehearsal are gone afterwards, whatever happened."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.core.errors import Unavailable
from app.operations.rehearsal import people as module
from app.operations.rehearsal.people import people


class Accounts:
    """In memory. The first `failures` removals fail."""

    def __init__(self, failures: int = 0) -> None:
        self.emails: dict[int, str] = {}
        self.told: list[str] = []
        self._failures = failures

    def register(self, email: str, _password: str) -> SimpleNamespace:
        if len(self.emails) == 5:
            raise Unavailable("The database does not answer.")
        number = len(self.emails) + 1
        self.emails[number] = email
        return SimpleNamespace(id=number, email=email)

    def remove(self, user_id: int) -> None:
        if self._failures:
            self._failures -= 1
            raise Unavailable("The database does not answer.")
        del self.emails[user_id]


def test_they_are_removed_after_an_exception_too() -> None:
    accounts = Accounts()

    def use() -> None:
        with people(3, accounts.register, accounts.remove, accounts.told.append) as made:
            assert [person.id for person in made] == [1, 2, 3]
            assert len(accounts.emails) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert accounts.emails == {}


def test_those_of_half_a_beginning_are_removed_as_well() -> None:
    accounts = Accounts()
    with pytest.raises(Unavailable), people(9, accounts.register, accounts.remove, accounts.told.append):
        raise AssertionError("not reached")
    assert accounts.emails == {}


def test_a_store_that_is_away_for_a_moment_is_asked_again() -> None:
    accounts = Accounts(failures=4)
    with people(3, accounts.register, accounts.remove, accounts.told.append):
        pass
    assert (accounts.emails, accounts.told) == ({}, [])


def test_who_could_not_be_removed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMOVAL_SECONDS", 0)
    accounts = Accounts()
    with people(3, accounts.register, accounts.remove, accounts.told.append):
        pass
    prefix = accounts.emails[1].rpartition("-")[0]
    assert accounts.told == [f"3 users of the rehearsal could not be deleted: those whose address begins with {prefix}"]
