"""The person that an event belongs to: an account, or an anonymous visitor of one day. And whether that person is counted."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

PSEUDONYM_LENGTH = 32
ACCOUNT_PREFIX, VISITOR_PREFIX = "a", "v"  # of a pseudonym

USER, SESSION, GPC = "user", "session", "gpc"  # reasons for an opt-out: the account's, this browser's, the Sec-GPC header


@dataclass(frozen=True)
class AnalyticsAccount:
    user_id: int

    @property
    def key(self) -> str:
        return f"account:{self.user_id}"


@dataclass(frozen=True)
class HashedVisitor:
    """An anonymous visitor, known by a hash of address and user agent that is valid for one day."""

    pseudonym: str

    @property
    def key(self) -> str:
        return f"visitor:{self.pseudonym}"


Person = AnalyticsAccount | HashedVisitor


@dataclass(frozen=True)
class ConsentState:
    """Whether events of a person may be stored. Each opt-out, opt-in and erasure increments `version`.

    An event is stored only if the version has not changed since the event was accepted.
    """

    pseudonym: str
    version: int
    is_granted: bool
    opted_out_at: datetime | None = None


@dataclass(frozen=True)
class OptOutStatus:
    """The answer to "am I counted?". `reason` is USER, SESSION or GPC, or None without an opt-out."""

    opted_out: bool
    reason: str | None
    opted_out_at: datetime | None


@dataclass(frozen=True)
class ErasureResult:
    count: int
    not_linkable_before: datetime  # anonymous events from before cannot be attributed to anybody


def new_pseudonym() -> str:
    return ACCOUNT_PREFIX + secrets.token_hex(PSEUDONYM_LENGTH)[: PSEUDONYM_LENGTH - 1]


def hash_visitor(key: bytes, address: str, user_agent: str) -> HashedVisitor:
    """Hash with the key of the day; without that key the hash cannot be reversed."""
    digest = hmac.new(key, f"{address}\0{user_agent}".encode(errors="replace"), hashlib.sha256).hexdigest()
    return HashedVisitor(VISITOR_PREFIX + digest[: PSEUDONYM_LENGTH - 1])


def is_visitor(pseudonym: str) -> bool:
    return pseudonym.startswith(VISITOR_PREFIX)
