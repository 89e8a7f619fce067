"""Setting a new password without the old one, under a link that works once and for an hour."""

import hashlib
import logging
import re
import secrets
from datetime import UTC, datetime, timedelta

import gevent
from gevent.pool import Pool
from sqlalchemy import Connection

from app.auth import audit, reset_store, store, token_store
from app.auth.limits import RateLimiter, network_of
from app.auth.passwords import Passwords, find_weakness
from app.auth.store import User
from app.core import metrics
from app.core.config import Config
from app.core.config_parsers import RateLimit
from app.core.errors import Invalid, NotSignedIn, Problem, TooMany, Unavailable
from app.core.mail import Mailer, MailError
from app.database.engine import Database
from app.database.locks import lock_user

log = logging.getLogger(__name__)

PATH = "/reset-password"
LINK_SECONDS = 3600
# Requests for a mail, on all instances together. An address may belong to many people.
ACCOUNT_LIMIT = RateLimit(3, 3600)
ADDRESS_LIMIT = ACCOUNT_LIMIT.times(10)
MAX_SENDING = 100  # mails at once on one instance
RESPONSE_FIRST_SECONDS = 0.1
RETRY_SECONDS = (10.0, 60.0)
CLOSE_SECONDS = 2.0

SUBJECT = "Set a new password for RepoRadar"
TEXT = """\
Somebody asked for a new password for the RepoRadar account with this e-mail address.

Set a new password within an hour:
{link}

The link works once. If you did not ask for it, ignore this mail. Your password stays as it is.
"""

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


class InvalidLink(Problem):
    status = 410

    def __init__(self) -> None:
        super().__init__("This link has been used, has expired, or is incomplete. It works once and for an hour.")


class PasswordResets:
    def __init__(
        self, config: Config, database: Database, passwords: Passwords, limiter: RateLimiter, mailer: Mailer | None
    ) -> None:
        self._base_url = config.public_url or f"http://localhost:{config.port}"
        self._database = database
        self._passwords = passwords
        self._limiter = limiter
        self._mailer = mailer
        self._sending = Pool(MAX_SENDING)

    @property
    def sends_mail(self) -> bool:
        return self._mailer is not None

    def request(self, email: str, address: str) -> None:
        """Mail a link to the user with this e-mail address, if there is one. Raises TooMany and Unavailable.

        The caller cannot notice whether there is such a user: the mail is sent in the background.
        """
        if self._sending.full():
            raise Unavailable("Too many mails are being sent. Please try again in a minute.", retry_after=60)
        limits = {f"reset:account:{email}": ACCOUNT_LIMIT, f"reset:address:{network_of(address)}": ADDRESS_LIMIT}
        account = audit.account_digest(email)
        if seconds := self._limiter.acquire(limits, secrets.token_hex(8)):
            metrics.attempts.labels("reset", "limited").inc()
            audit.log_event("password.reset_limited", address, account=account)
            raise TooMany("Too many mails were requested. Please wait before you request another one.", retry_after=seconds)
        audit.log_event("password.reset_requested", address, account=account)
        self._sending.spawn(self._send_with_retries, email)

    def create_link(self, email: str) -> str | None:
        """Return a new link for the user with this e-mail address, or None if there is no such user."""
        secret, now = secrets.token_urlsafe(32), datetime.now(UTC)
        is_added = self._database.run(_add, email, digest_of(secret), now)
        return f"{self._base_url}{PATH}?token={secret}" if is_added else None

    def user_of(self, secret: str) -> User:
        """Return the user whose password the link sets. Raises InvalidLink."""
        found = None
        if _SECRET.fullmatch(secret):
            found = self._database.run(reset_store.user_of, digest_of(secret), datetime.now(UTC))
        if found is None:
            raise InvalidLink
        return found

    def set_password(self, secret: str, password: str, address: str) -> User:
        """Set a new password, which uses up the link, and revoke the API tokens. Raises InvalidLink and Invalid.

        Return the user with the new password version. Sessions with an older version are no longer valid.
        """
        user = self.user_of(secret)
        if complaint := find_weakness(password, user.email):
            raise Invalid.field("new_password", complaint)
        password_hash = self._passwords.hash(password)
        changed = self._database.run(_use, digest_of(secret), user, password_hash)
        metrics.attempts.labels("reset", "succeeded").inc()
        audit.log_event("password.reset", address, user=user.id)
        return changed

    def close(self) -> None:
        """Wait a moment for mails that are being sent, and drop the rest: their users can request another one."""
        self._sending.join(timeout=CLOSE_SECONDS)
        if unsent := len(self._sending):
            log.warning("dropped %d mails for password resets", unsent)
            self._sending.kill(block=False)

    def _send_with_retries(self, email: str) -> None:
        gevent.sleep(RESPONSE_FIRST_SECONDS)  # so that the work below does not delay the response
        for pause in RETRY_SECONDS:
            try:
                return self._send(email)
            except (MailError, Unavailable) as error:
                log.warning("mail for a password reset was not sent, retrying in %g s: %s", pause, error)
            gevent.sleep(pause)
        try:
            self._send(email)
        except (MailError, Unavailable) as error:
            log.warning("dropped mail for a password reset: %s", error)

    def _send(self, email: str) -> None:
        assert self._mailer
        if link := self.create_link(email):
            self._mailer.send(email, SUBJECT, TEXT.format(link=link))


def _add(connection: Connection, email: str, digest: str, now: datetime) -> bool:
    user = store.by_email(connection, email)
    if user is None:
        return False
    try:
        lock_user(connection, user.id)  # before the expired links, some of which may be this user's
    except NotSignedIn:
        return False
    reset_store.add(connection, digest, user, now, now + timedelta(seconds=LINK_SECONDS))
    return True


def _use(connection: Connection, digest: str, user: User, password_hash: str) -> User:
    lock_user(connection, user.id)
    version = user.password_version + 1
    if not reset_store.remove(connection, digest) or not store.set_password(connection, user, password_hash, version=version):
        raise InvalidLink
    token_store.remove_all(connection, user.id)
    changed = store.by_id(connection, user.id)
    assert changed
    return changed


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
