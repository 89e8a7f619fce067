"""Passwords: which are accepted, and how they are hashed without stopping anybody else."""

from __future__ import annotations

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

LEFT_WITHOUT_CONTEXT = 6  # characters of a password beside the user's address and our name

THREADS = 2
NICENESS = 10
MAX_WAITING = 50  # beyond, a caller would wait for more than a second: better to say so at once

_COMMON: frozenset[str] = frozenset(FREQUENCY_LISTS["passwords"])
_OWN_WORDS = ("reporadar",)


def weakness(password: str, email: str) -> str | None:
    """Why this password is not accepted, as a sentence to its user; no rules of composition (ASVS 5.0: 6.2.5)."""
    if len(password) < MIN_LENGTH:
        return f"Use at least {MIN_LENGTH} characters."
    if len(password) > MAX_LENGTH:
        return f"Use at most {MAX_LENGTH} characters."
    plain = password.casefold()
    if plain in _COMMON:
        return "This password is too common. Choose another one."
    for word in (*_OWN_WORDS, email.casefold(), *email.casefold().split("@")):
        plain = plain.replace(word, "") if len(word) >= 4 else plain
    if len(plain) < LEFT_WITHOUT_CONTEXT:
        return "This is little more than your address or the name of this site. Choose another one."
    return None


class Passwords:
    """Argon2id on native threads of its own: it releases the interpreter lock, so the event loop goes on meanwhile."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(PASSES, MEMORY_KIB, LANES)
        self._threads = NativeThreads(THREADS)
        self._places = threading.BoundedSemaphore(MAX_WAITING)
        self._nobodys_hash = self._hasher.hash(os.urandom(16).hex())

    def hash(self, password: str) -> str:
        return self._elsewhere(lambda: self._hasher.hash(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Without a hash, for an account that does not exist, it takes as long and fails."""
        return self._elsewhere(lambda: self._matches(password_hash or self._nobodys_hash, password)) and bool(password_hash)

    def is_outdated(self, password_hash: str) -> bool:
        return self._hasher.check_needs_rehash(password_hash)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _elsewhere(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise Unavailable("Too many people are signing in at this moment. Please try again.", retry_after=1)
        try:
            return self._threads.run(_politely, work)
        finally:
            self._places.release()


def _politely(work: Callable[[], T]) -> T:
    """With less right to the processor than the event loop, which has everybody else waiting."""
    with contextlib.suppress(OSError):  # elsewhere than on Linux a thread has no priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
    return work()
