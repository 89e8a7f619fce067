"""The audit log: one line for each event of authentication and authorisation, with who, from where, and nothing secret."""

from __future__ import annotations

import hashlib
import logging

log = logging.getLogger("audit")


def note(event: str, address: str, **facts: object) -> None:
    pairs = " ".join(f"{name}={value}" for name, value in facts.items())
    log.info("%s address=%s %s", event, address, pairs)


def account(email: str) -> str:
    """An e-mail address for the log: recognisable for who knows it, and not to be read off."""
    return hashlib.sha256(email.encode()).hexdigest()[:12]
