"""Whose events these are, an account's or an anonymous visitor's of one day, and how they stand to being counted."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

LENGTH = 32  # of a pseudonym
ACCOUNT, VISITOR = "a", "v"  # what it begins with

USER, SESSION, GPC = "user", "session", "gpc"


@dataclass(frozen=True)
class Account:
    user_id: int

    @property
    def key(self) -> str:
        return f"account:{self.user_id}"


@dataclass(frozen=True)
class Visitor:
    """Somebody at an address with a browser, today."""

    pseudonym: str

    @property
    def key(self) -> str:
        return f"visitor:{self.pseudonym}"


Person = Account | Visitor


@dataclass(frozen=True)
class Standing:
    """What may be stored of a person: nothing while it is closed, and nothing that was accepted under another version."""

    pseudonym: str
    version: int
    is_open: bool
    fenced_at: datetime | None = None


@dataclass(frozen=True)
class Choice:
    """What somebody is answered. `reason` of a no: the account's (user), the browser's (session), or Sec-GPC (gpc)."""

    opted_out: bool
    reason: str | None
    fenced_at: datetime | None


@dataclass(frozen=True)
class Erased:
    count: int
    not_linkable_before: datetime  # anonymous events from before can't be told to be anybody's


def new_pseudonym() -> str:
    return ACCOUNT + secrets.token_hex(LENGTH)[: LENGTH - 1]


def visitor_of(key: bytes, address: str, user_agent: str) -> Visitor:
    """`key`: of the day. Who does not have it can't tell whose hash this is."""
    digest = hmac.new(key, f"{address}\0{user_agent}".encode(errors="replace"), hashlib.sha256).hexdigest()
    return Visitor(VISITOR + digest[: LENGTH - 1])


def is_visitor(pseudonym: str) -> bool:
    return pseudonym.startswith(VISITOR)
