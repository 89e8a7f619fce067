"""The audit log: one line per authentication or authorisation event, with client address and account, without secrets."""

import hashlib
import logging

log = logging.getLogger("audit")


def log_event(event: str, address: str, **facts: object) -> None:
    log.info(" ".join([event, *(f"{name}={value}" for name, value in {"address": address, **facts}.items())]))


def account_digest(email: str) -> str:
    """Return 12 hexadecimal characters that identify an e-mail address in the log without showing it."""
    return hashlib.sha256(email.encode()).hexdigest()[:12]
