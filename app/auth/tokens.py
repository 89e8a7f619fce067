"""API tokens, with which programs sign in: `Authorization: Bearer rr_…`."""

import hashlib
import re
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from app.auth import audit, token_store
from app.auth.limits import RateLimiter
from app.auth.store import User
from app.auth.token_store import ApiToken
from app.core import metrics
from app.core.config_parsers import RateLimit
from app.core.errors import CHALLENGE, Conflict, Invalid, NotFound, NotSignedIn, Problem, TooMany, Unavailable
from app.database.engine import Database
from app.database.locks import lock_user

READ: Final = "read"
WRITE: Final = "write"  # such a token may also read
PREFIX = "rr_"  # tells people and secret scanners what a leaked token is
REQUEST_LIMIT = RateLimit(600, 60)  # of one token, on all instances together
MAX_PER_USER = 50
MAX_NAME_LENGTH = 100
LAST_USE_SECONDS = 60  # precision of the last use, so that most requests only read

_TOKEN = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")


class InvalidToken(NotSignedIn):
    def __init__(self) -> None:
        message = "The API token is invalid, expired or revoked."
        challenge = f'{CHALLENGE}, error="invalid_token", error_description="{message}"'
        super().__init__(message, headers={"WWW-Authenticate": challenge})


class InsufficientScope(Problem):
    status = 403

    def __init__(self) -> None:
        challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{WRITE}"'
        message = f"This API token may only read. This request needs a token with the scope {WRITE}."
        super().__init__(message, headers={"WWW-Authenticate": challenge})


class ApiTokens:
    """Tokens are looked up in SQL at each request, so a revoked one is refused by every instance at once."""

    def __init__(self, database: Database, limiter: RateLimiter) -> None:
        self._database = database
        self._limiter = limiter
        self._no_last_use_until = 0.0  # after a failure, for example while the database is read-only; time.monotonic()

    def list(self, user_id: int) -> list[ApiToken]:
        return self._database.run(token_store.of_user, user_id)

    def create(self, user_id: int, name: str, scope: str, expires_at: datetime | None, address: str) -> tuple[ApiToken, str]:
        """Return the new token and its secret, which is not stored. Raises Invalid and Conflict."""
        name, now = name.strip(), datetime.now(UTC)
        if not name or not name.isprintable():
            raise Invalid.field("name", "Enter a name without line breaks.")
        if expires_at is not None and expires_at <= now:
            raise Invalid.field("expires_at", "The expiry must be in the future.")
        secret = PREFIX + secrets.token_urlsafe(32)
        values = {"name": name, "scope": scope, "created_at": now, "expires_at": expires_at}
        token = self._database.run(_add, user_id, _digest(secret), values)
        audit.log_event("token.created", address, user=user_id, token=token.id, scope=scope)
        return token, secret

    def revoke(self, user_id: int, token_id: int, address: str) -> None:
        """Delete a token, which ends its access on every instance at once. Raises NotFound."""
        if not self._database.run(token_store.remove, user_id, token_id):
            raise NotFound("You have no such token.")
        audit.log_event("token.revoked", address, user=user_id, token=token_id)

    def authenticate(self, secret: str, address: str) -> tuple[ApiToken, User]:
        """Return the token and its user, and record the use. Raises InvalidToken and TooMany."""
        now = datetime.now(UTC)
        found = self._database.run(token_store.by_digest, _digest(secret)) if _TOKEN.fullmatch(secret) else None
        if found is None or (found[0].expires_at and found[0].expires_at <= now):
            metrics.attempts.labels("token", "failed").inc()
            facts = {"user": found[1].id, "token": found[0].id, "reason": "expired"} if found else {"reason": "unknown"}
            audit.log_event("token.rejected", address, **facts)
            raise InvalidToken
        token, user = found
        if seconds := self._limiter.acquire({f"token:{token.id}": REQUEST_LIMIT}, secrets.token_hex(8)):
            metrics.attempts.labels("token", "limited").inc()
            audit.log_event("token.limited", address, user=user.id, token=token.id)
            raise TooMany("This API token has sent too many requests. Please wait.", retry_after=seconds)
        self._record_use(token, now)
        return token, user

    def _record_use(self, token: ApiToken, now: datetime) -> None:
        due_before = now - timedelta(seconds=LAST_USE_SECONDS)
        is_due = token.last_used_at is None or token.last_used_at < due_before
        if not is_due or time.monotonic() < self._no_last_use_until:
            return
        try:
            self._database.run(token_store.record_use, token.id, now, due_before)
        except Unavailable:  # the request itself may need no change
            self._no_last_use_until = time.monotonic() + LAST_USE_SECONDS


def _add(connection: Connection, user_id: int, digest: str, values: dict[str, object]) -> ApiToken:
    lock_user(connection, user_id)
    if token_store.count(connection, user_id) >= MAX_PER_USER:
        raise Conflict(f"You have {MAX_PER_USER} API tokens already. Revoke one that you no longer need.")
    return token_store.add(connection, user_id, digest, values)


def _digest(secret: str) -> str:
    # A plain hash is enough: 256 random bits cannot be guessed, unlike a password.
    return hashlib.sha256(secret.encode()).hexdigest()
