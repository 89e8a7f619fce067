"""Accounts: who may come in, and what is noted about it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address

from sqlalchemy import Connection

from app.auth import audit, store
from app.auth.limits import Buckets, RateLimiter
from app.auth.passwords import Passwords, weakness
from app.auth.store import EmailTaken, User
from app.core import metrics
from app.core.callbacks import do_nothing
from app.core.config import Config
from app.core.errors import Conflict, Invalid, NotSignedIn, Problem, TooMany, Unavailable
from app.database.engine import Database

# What <input type=email> accepts, by the HTML standard: https://html.spec.whatwg.org/#valid-e-mail-address
EMAIL = re.compile(
    r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
MAX_EMAIL_LENGTH = 254
DELETION_SECONDS = 20.0  # of somebody with very many events

Forget = Callable[[Connection, int], None]  # user id


@dataclass(frozen=True)
class Client:
    """Where a request comes from. `device` names a browser that this user has signed in with before, as its cookie proves."""

    address: str
    user_agent: str = ""
    device: tuple[int, str] | None = None  # user id, random name


class WrongPassword(NotSignedIn):
    def __init__(self) -> None:
        super().__init__("The e-mail address or the password is wrong.")


class NotConfirmed(Problem):
    status = 403

    def __init__(self, field: str) -> None:
        sentence = "This is not your password."
        super().__init__(sentence, errors=[{"field": field, "message": sentence}])


class Accounts:
    def __init__(
        self, config: Config, database: Database, passwords: Passwords, limiter: RateLimiter, forget: Forget = do_nothing
    ) -> None:
        """`forget`: what else there is of an account that is deleted, in the same transaction."""
        self._login_rate = config.rate_limit_login
        self._register_rate = config.rate_limit_register
        self._database = database
        self._passwords = passwords
        self._limiter = limiter
        self._forget = forget
        self.before_sign_in: list[Callable[[int], None]] = []  # called with the user's id, before the new session starts

    def get(self, user_id: int) -> User | None:
        return self._database.run(store.by_id, user_id)

    def by_email(self, email: str) -> User | None:
        return self._database.run(store.by_email, email.strip().lower())

    def password_versions(self, user_ids: Sequence[int]) -> dict[int, int]:
        """Of those who exist."""
        return self._database.run(store.password_versions, user_ids)

    def register(self, email: str, password: str, client: Client) -> User:
        """Raises Invalid, Conflict (taken: the one place that tells, which is why it is limited first), TooMany."""
        email = normal_email(email)
        if complaint := weakness(password, email):
            raise Invalid.field("password", complaint)
        self._take({f"register:{_network(client.address)}": self._register_rate}, email, client, "registration")
        try:
            user = self._database.run(store.add, email, self._passwords.hash(password))
        except EmailTaken:
            audit.note("registration.refused", client.address, account=audit.account(email), reason="taken")
            raise Conflict("There is an account with this e-mail address already.") from None
        metrics.attempts.labels("registration", "succeeded").inc()
        audit.note("registration.succeeded", client.address, user=user.id)
        return user

    def add_without_limit(self, email: str, password: str) -> User:
        """For a process of the operator's, which vouches for both."""
        return self._database.run(store.add, email, self._passwords.hash(password))

    def log_in(self, email: str, password: str, client: Client) -> User:
        """Raises WrongPassword, by the same words and in the same time whether there is such an account or not; TooMany."""
        email = email.strip().lower()
        user = self._database.run(store.by_email, email) if EMAIL.fullmatch(email) else None
        with self._an_attempt(user, email, client, "login"):
            if not self._passwords.verify(user.password_hash if user else None, password):
                metrics.attempts.labels("login", "failed").inc()
                audit.note("login.failed", client.address, account=audit.account(email))
                raise WrongPassword
        assert user is not None
        metrics.attempts.labels("login", "succeeded").inc()
        audit.note("login.succeeded", client.address, user=user.id)
        return self._rehashed(user, password)

    def change_password(self, user: User, current: str, new: str, client: Client) -> User:
        """The user with the new password's version; whoever knows an older one is no longer signed in."""
        self._confirm(user, current, client, "current_password")
        if complaint := weakness(new, user.email):
            raise Invalid.field("new_password", complaint)
        changed = self._set_password(user, new, version=user.password_version + 1)
        audit.note("password.changed", client.address, user=user.id)
        return changed

    def delete(self, user: User, password: str, client: Client) -> None:
        self._confirm(user, password, client, "password")
        self._database.run_within(DELETION_SECONDS, self._remove, user.id)
        audit.note("account.deleted", client.address, user=user.id)

    def delete_without_password(self, user_id: int) -> None:
        """For a process of the operator's, which has made the account."""
        self._database.run_within(DELETION_SECONDS, self._remove, user_id)

    def _remove(self, connection: Connection, user_id: int) -> None:
        self._forget(connection, user_id)
        store.remove(connection, user_id)

    def _confirm(self, user: User, password: str, client: Client, field: str) -> None:
        with self._an_attempt(user, user.email, client, "confirmation"):
            if not self._passwords.verify(user.password_hash, password):
                metrics.attempts.labels("confirmation", "failed").inc()
                audit.note("confirmation.failed", client.address, user=user.id)
                raise NotConfirmed(field)
        metrics.attempts.labels("confirmation", "succeeded").inc()

    @contextmanager
    def _an_attempt(self, user: User | None, email: str, client: Client, what: str) -> Iterator[None]:
        """Counted in advance; given back on success, and where the password could not be checked."""
        buckets = self._login_buckets(user, email, client)
        token = self._take(buckets, email, client, what)
        try:
            yield
        except Unavailable:
            self._limiter.give_back(buckets, token)
            raise
        self._limiter.give_back(buckets, token)

    def _login_buckets(self, user: User | None, email: str, client: Client) -> Buckets:
        # A browser that the owner has used before counts for itself, so that nobody else can use up the owner's attempts:
        # https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies
        if user and client.device and client.device[0] == user.id:
            return {f"login:device:{client.device[1]}": self._login_rate}
        return {f"login:account:{email}": self._login_rate, f"login:address:{_network(client.address)}": self._login_rate}

    def _take(self, buckets: Buckets, email: str, client: Client, what: str) -> str:
        token = secrets.token_hex(8)
        if wait := self._limiter.take(buckets, token):
            metrics.attempts.labels(what, "limited").inc()
            audit.note(f"{what}.limited", client.address, account=audit.account(email))
            raise TooMany("There were too many attempts.", retry_after=wait)
        return token

    def _rehashed(self, user: User, password: str) -> User:
        if not self._passwords.is_outdated(user.password_hash):
            return user
        return self._set_password(user, password, version=user.password_version)

    def _set_password(self, user: User, password: str, version: int) -> User:
        password_hash = self._passwords.hash(password)
        if not self._database.run(store.set_password, user, password_hash, version=version):
            raise Conflict("The password was changed by another request at the same time.")
        return replace(user, password_hash=password_hash, password_version=version)


def normal_email(text: str) -> str:
    email = text.strip().lower()
    if len(email) > MAX_EMAIL_LENGTH or not EMAIL.fullmatch(email):
        raise Invalid.field("email", "This is not an e-mail address.")
    return email


def _network(address: str) -> str:
    """Of a client: an IPv6 user has a whole /64 to choose addresses from. Some proxies add the port, which is left out."""
    host = re.sub(r"^\[(.*)\](:\d+)?$|^([^:]*):\d+$", r"\1\3", address)
    try:
        parsed = ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
