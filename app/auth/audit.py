"""The audit log: one line for each event of authentication and authorisation, with who, from where, and nothing secret."""

from __future__ import annotations

import hashlib
import logging

log = logging.getLogger("audit")


def note(event: str, address: str, **facts: object) -> None:
    log.info(" ".join([event, *(f"{name}={value}" for name, value in {"address": address, **facts}.items())]))


def account(email: str) -> str:
    """An e-mail address for the log: recognisable for who knows it, and not to be read off."""
    return hashlib.sha256(email.encode()).hexdigest()[:12]
