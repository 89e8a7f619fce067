"""Password rules, and hashing that does not block the event loop."""

import base64
import contextlib
import os
import threading
import unicodedata
from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from app.core.errors import Unavailable
from app.core.threads import NativeThreads

T = TypeVar("T")

MIN_LENGTH, MAX_LENGTH = 8, 256  # ASVS 5.0: 6.2.1 and 6.2.9; of the normalized password
MAX_DECOMPOSITION = 4  # characters that one character of NFC consists of at most

# OWASP Password Storage Cheat Sheet, Argon2id: 19 MiB, 2 passes, 1 lane. About 20 ms of one core.
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
SALT_BYTES, HASH_BYTES = 16, 32  # as argon2-cffi makes them

MIN_LENGTH_WITHOUT_CONTEXT = 6  # characters of a password beside the user's e-mail address and the name of this site

THREADS = 2
NICENESS = 10
MAX_WAITING = 50  # a longer queue would take more than a second

_COMMON_PASSWORDS: frozenset[str] = frozenset(FREQUENCY_LISTS["passwords"])
_SITE_WORDS = ("reporadar",)


def normalize(password: str) -> str:
    """Return the form that is hashed: NFC with plain spaces, as in the OpaqueString profile (RFC 8265, 4.2).

    Keyboards and systems encode the same characters differently: é is one character or two. Nothing is rejected here.
    """
    spaced = "".join([" " if unicodedata.category(character) == "Zs" else character for character in password])
    return unicodedata.normalize("NFC", spaced)


def is_too_long(password: str) -> bool:
    return len(password) > MAX_DECOMPOSITION * MAX_LENGTH or len(normalize(password)) > MAX_LENGTH


def find_weakness(password: str, email: str) -> str | None:
    """Return a sentence for the user why a password is not accepted. There are no composition rules (ASVS 5.0: 6.2.5)."""
    if is_too_long(password):
        return f"Use at most {MAX_LENGTH} characters."
    password = normalize(password)
    if len(password) < MIN_LENGTH:
        return f"Use at least {MIN_LENGTH} characters."
    folded = password.casefold()
    if folded in _COMMON_PASSWORDS:
        return "This password is too common. Choose another one."
    for word in (*_SITE_WORDS, email.casefold(), *email.casefold().split("@")):
        folded = folded.replace(word, "") if len(word) >= 4 else folded
    if len(folded) < MIN_LENGTH_WITHOUT_CONTEXT:
        return "This password contains little more than your e-mail address or the name of this site. Choose another one."
    return None


class Match(IntEnum):
    """Whether a password is the right one. Only NONE is false."""

    NONE = 0
    CURRENT = 1
    OUTDATED = 2  # the hash should be renewed: older parameters, or made of the password as typed


class Passwords:
    """Argon2id in its own native threads. Hashing releases the GIL, so the event loop continues."""

    def __init__(self) -> None:
        parameters = (PASSES, MEMORY_KIB, LANES)
        self._hasher = PasswordHasher(*parameters)
        self._threads = NativeThreads(THREADS)
        self._queue_slots = threading.BoundedSemaphore(MAX_WAITING)
        self._dummy_hash = _dummy_hash(*parameters)

    def hash(self, password: str) -> str:
        return self._run_in_thread(lambda: self._hasher.hash(normalize(password)))

    def verify(self, password_hash: str | None, password: str) -> Match:
        """`password_hash` is None for an account that does not exist: this takes as long and returns NONE.

        Hashes of earlier versions were made of the password as typed. It is tried too where it differs.
        """
        match = self._run_in_thread(lambda: self._match(password_hash or self._dummy_hash, password))
        return match if password_hash else Match.NONE

    def is_outdated(self, password_hash: str) -> bool:
        return self._hasher.check_needs_rehash(password_hash)

    def _match(self, password_hash: str, password: str) -> Match:
        normalized = normalize(password)
        if self._matches(password_hash, normalized):
            return Match.OUTDATED if self.is_outdated(password_hash) else Match.CURRENT
        is_as_typed = password != normalized and self._matches(password_hash, password)
        return Match.OUTDATED if is_as_typed else Match.NONE

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _run_in_thread(self, work: Callable[[], T]) -> T:
        if not self._queue_slots.acquire(blocking=False):
            raise Unavailable("Too many users are signing in at this moment. Please try again.", retry_after=1)
        try:
            return self._threads.run(_at_low_priority, work)
        finally:
            self._queue_slots.release()


def _dummy_hash(passes: int, memory_kib: int, lanes: int) -> str:
    """Return a random hash that no known password has. To make it from a password would delay the start of each process."""
    salt, digest = (base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (SALT_BYTES, HASH_BYTES))
    return f"$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${digest}"


def _at_low_priority(work: Callable[[], T]) -> T:
    """Run below the priority of the event loop, for which all other requests wait."""
    with contextlib.suppress(OSError):  # only Linux has a priority per thread
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
    return work()
