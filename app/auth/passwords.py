"""Password rules, and hashing that does not block the event loop."""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from app.core.errors import Unavailable
from app.core.threads import NativeThreads

T = TypeVar("T")

MIN_LENGTH, MAX_LENGTH = 8, 256  # ASVS 5.0: 6.2.1 and 6.2.9

# OWASP Password Storage Cheat Sheet, Argon2id: 19 MiB, 2 passes, 1 lane. About 20 ms of one core.
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1

MIN_LENGTH_WITHOUT_CONTEXT = 6  # characters of a password beside the user's e-mail address and the name of this site

THREADS = 2
NICENESS = 10
MAX_WAITING = 50  # a longer queue would take more than a second

_COMMON_PASSWORDS: frozenset[str] = frozenset(FREQUENCY_LISTS["passwords"])
_SITE_WORDS = ("reporadar",)


def find_weakness(password: str, email: str) -> str | None:
    """Return a sentence for the user why a password is not accepted. There are no composition rules (ASVS 5.0: 6.2.5)."""
    if len(password) < MIN_LENGTH:
        return f"Use at least {MIN_LENGTH} characters."
    if len(password) > MAX_LENGTH:
        return f"Use at most {MAX_LENGTH} characters."
    folded = password.casefold()
    if folded in _COMMON_PASSWORDS:
        return "This password is too common. Choose another one."
    for word in (*_SITE_WORDS, email.casefold(), *email.casefold().split("@")):
        folded = folded.replace(word, "") if len(word) >= 4 else folded
    if len(folded) < MIN_LENGTH_WITHOUT_CONTEXT:
        return "This password contains little more than your e-mail address or the name of this site. Choose another one."
    return None


class Passwords:
    """Argon2id in its own native threads. Hashing releases the GIL, so the event loop continues."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(PASSES, MEMORY_KIB, LANES)
        self._threads = NativeThreads(THREADS)
        self._queue_slots = threading.BoundedSemaphore(MAX_WAITING)
        self._dummy_hash = self._hasher.hash(os.urandom(16).hex())

    def hash(self, password: str) -> str:
        return self._run_in_thread(lambda: self._hasher.hash(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """`password_hash` is None for an account that does not exist: this takes as long and returns False."""
        return self._run_in_thread(lambda: self._matches(password_hash or self._dummy_hash, password)) and bool(password_hash)

    def is_outdated(self, password_hash: str) -> bool:
        return self._hasher.check_needs_rehash(password_hash)

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


def _at_low_priority(work: Callable[[], T]) -> T:
    """Run below the priority of the event loop, for which all other requests wait."""
    with contextlib.suppress(OSError):  # only Linux has a priority per thread
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
    return work()
