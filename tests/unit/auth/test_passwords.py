from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator

import gevent
import pytest
from argon2 import PasswordHasher

from app.auth import passwords
from app.auth.passwords import MAX_LENGTH, MIN_LENGTH, Match, Passwords, find_weakness, is_too_long, normalize
from app.core.errors import Unavailable

EMAIL = "grace.hopper@example.org"
GOOD = "correct horse battery"


REAL_PARAMETERS = {name: getattr(passwords, name) for name in ("PASSES", "MEMORY_KIB")}


@pytest.fixture(scope="module", autouse=True)
def real_parameters(cheap_hashes: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in REAL_PARAMETERS.items():
            monkeypatch.setattr(passwords, name, value)
        yield


class CountingHasher(PasswordHasher):
    """A hasher that records its calls."""

    def __init__(self) -> None:
        super().__init__(passwords.PASSES, passwords.MEMORY_KIB, passwords.LANES)
        self.calls: list[str] = []

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.calls.append("hash")
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        self.calls.append("verify")
        return super().verify(hash, password)


@pytest.fixture(scope="module")
def hashing() -> Passwords:
    return Passwords()


@pytest.mark.parametrize(
    "password",
    [
        GOOD,
        "zq8vkw3x",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaab",
        "only small letters and blanks",
        "пароль-из-слов",
        "🐎🔋📎🐎🔋📎🐎🔋",
        "x" * MAX_LENGTH,
        " 8 chars",
        "reporadar is a good radar",
    ],
)
def test_password_is_accepted(password: str) -> None:
    assert find_weakness(password, EMAIL) is None


@pytest.mark.parametrize(
    ("password", "word"),
    [
        ("", "at least"),
        ("x" * (MIN_LENGTH - 1), "at least"),
        ("🐎" * (MIN_LENGTH - 1), "at least"),
        ("x" * (MAX_LENGTH + 1), "at most"),
        ("password", "too common"),
        ("PassWord", "too common"),
        ("12345678", "too common"),
        ("iloveyou", "too common"),
        ("password1", "too common"),
        ("reporadar", "your e-mail address or the name"),
        ("RepoRadar1", "your e-mail address or the name"),
        ("reporadarreporadar", "your e-mail address or the name"),
        (EMAIL, "your e-mail address or the name"),
        ("grace.hopper", "your e-mail address or the name"),
        ("Grace.Hopper12", "your e-mail address or the name"),
        ("example.org!", "your e-mail address or the name"),
    ],
)
def test_weak_password_is_rejected(password: str, word: str) -> None:
    complaint = find_weakness(password, EMAIL)
    assert complaint is not None
    assert word in complaint


def test_complete_email_address_is_rejected() -> None:
    assert find_weakness("ada@example.org", "ada@example.org") is not None


def test_short_local_part_is_ignored() -> None:
    assert find_weakness("adadadad", "ada@example.org") is None


def test_password_matches_only_its_own_hash(hashing: Passwords) -> None:
    hashed = hashing.hash(GOOD)
    assert hashed != hashing.hash(GOOD)
    assert hashing.verify(hashed, GOOD)
    for other in ("", GOOD + " ", GOOD.upper(), GOOD[:-1]):
        assert not hashing.verify(hashed, other)


NFC, NFD = "pâté-crème brûlée", "pa\u0302te\u0301-cre\u0300me bru\u0302le\u0301e"
SAME = [(NFC, NFD), ("한국어 비밀번호", unicodedata.normalize("NFD", "한국어 비밀번호")), ("\u212bngström unit", "Ångström unit")]


@pytest.mark.parametrize(("one", "other"), [*SAME, ("seven\u00a0green\u3000bicycles", "seven green bicycles")])
def test_password_matches_in_each_encoding_of_its_characters(hashing: Passwords, one: str, other: str) -> None:
    assert one != other
    for registered, typed in ((one, other), (other, one)):
        assert hashing.verify(hashing.hash(registered), typed) is Match.CURRENT


def test_compatible_characters_case_and_number_of_spaces_differ(hashing: Passwords) -> None:
    hashed = hashing.hash("ﬁve  Small cats²")
    for other in ("five  Small cats²", "ﬁve  Small cats2", "ﬁve Small cats²", "ﬁve  small cats²"):
        assert hashing.verify(hashed, other) is Match.NONE


def test_hash_of_the_password_as_typed_matches_and_is_outdated(hashing: Passwords) -> None:
    as_typed = hashing._hasher.hash(NFD)
    assert hashing.verify(as_typed, NFD) is Match.OUTDATED
    assert hashing.verify(as_typed, NFC) is Match.NONE
    assert hashing.verify(as_typed, NFD + "!") is Match.NONE


@pytest.mark.parametrize(("typed", "work"), [(NFC, ["verify"]), (NFD, ["verify", "verify"])])
def test_password_as_typed_is_tried_only_if_it_differs(typed: str, work: list[str]) -> None:
    hashing, hasher = Passwords(), CountingHasher()
    known = hashing.hash(GOOD)
    hashing._hasher = hasher
    for password_hash in (known, None):  # an unknown account costs the same
        hasher.calls.clear()
        assert hashing.verify(password_hash, typed) is Match.NONE
        assert hasher.calls == work


def test_length_is_that_of_the_normalized_password() -> None:
    longest = "각" * MAX_LENGTH
    assert find_weakness(unicodedata.normalize("NFD", longest), EMAIL) is None
    assert is_too_long(unicodedata.normalize("NFD", longest + "각"))
    short = unicodedata.normalize("NFD", "각" * (MIN_LENGTH - 1))
    assert len(short) > MIN_LENGTH
    assert "at least" in (find_weakness(short, EMAIL) or "")


def test_no_character_of_nfc_consists_of_more_characters_than_allowed() -> None:
    longest = max(len(unicodedata.normalize("NFD", chr(number))) for number in range(sys.maxunicode + 1))
    assert longest == passwords.MAX_DECOMPOSITION


def test_normalization_keeps_everything_else() -> None:
    for kept in (GOOD, NFC, "tab\tline\nzero\u200bwidth", "🐎🔋📎"):
        assert normalize(kept) == kept


def test_hashes_use_argon2id_with_owasp_parameters(hashing: Passwords) -> None:
    assert hashing.hash(GOOD).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("hashed", ["$argon2id$broken", "plain text", "$2b$12$abcdefghijklmnopqrstuv"])
def test_invalid_hash_never_matches(hashing: Passwords, hashed: str) -> None:
    assert not hashing.verify(hashed, GOOD)
    assert not hashing.verify(hashed, hashed)


def test_hash_with_weaker_parameters_is_outdated(hashing: Passwords) -> None:
    assert not hashing.is_outdated(hashing.hash(GOOD))
    assert hashing.is_outdated(PasswordHasher(1, 8 * 1024, 1).hash(GOOD))


def test_unknown_account_costs_the_same_work_and_fails() -> None:
    hashing, hasher = Passwords(), CountingHasher()
    known = hashing.hash(GOOD)
    hashing._hasher = hasher
    assert not hashing.verify(known, "wrong")
    of_the_known, hasher.calls = hasher.calls, []
    assert not hashing.verify(None, "wrong")
    assert of_the_known == hasher.calls == ["verify"]
    assert known.rpartition("$")[0].rpartition("$")[0] == hashing._dummy_hash.rpartition("$")[0].rpartition("$")[0]


def test_full_queue_is_unavailable_with_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 3)
    hashing = Passwords()
    hashed = hashing.hash(GOOD)
    jobs = [gevent.spawn(hashing.verify, hashed, GOOD) for _ in range(5)]
    for job in jobs:
        job.join()
    refused = [job.exception for job in jobs if not job.successful()]
    assert [type(fault) for fault in refused] == [Unavailable, Unavailable]
    assert [job.value for job in jobs if job.successful()] == [True, True, True]
    assert refused[0].headers == {"Retry-After": "1"}
    assert hashing.verify(hashed, GOOD)


def test_exception_frees_its_queue_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 1)
    hashing = Passwords()
    for _ in range(3):
        with pytest.raises(TypeError):
            hashing.hash(7)  # type: ignore[arg-type]
    assert hashing.hash(GOOD)


def test_hashing_does_not_block_the_event_loop(hashing: Passwords) -> None:
    order: list[str] = []
    job = gevent.spawn(lambda: order.append(f"hashed {len(hashing.hash(GOOD)) > 0}"))
    gevent.idle()
    order.append("loop")
    job.join()
    assert order == ["loop", "hashed True"]
