"""Accounts: registration, login, password changes and deletion, with rate limits and the audit log."""

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from app.auth import audit, store
from app.auth.limits import Buckets, RateLimiter, network_of
from app.auth.passwords import Match, Passwords, find_weakness
from app.auth.store import EmailTaken, User
from app.core import metrics
from app.core.callbacks import do_nothing
from app.core.config import Config
from app.core.errors import Conflict, Invalid, NotSignedIn, Problem, TooMany
from app.database.engine import Database
from app.database.locks import lock_user_for_deletion

# What <input type=email> accepts, by the HTML standard: https://html.spec.whatwg.org/#valid-e-mail-address
EMAIL = re.compile(
    r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
MAX_EMAIL_LENGTH = 254
LOGINS_PER_ADDRESS = 10  # times the limit of an account: many people of one office or one provider share an address
DELETION_TIMEOUT_SECONDS = 20.0  # a user may have very many events

Erase = Callable[[Connection, int], None]  # called with the user ID


@dataclass(frozen=True)
class Client:
    """The client of a request. `device` identifies a browser in which this user has signed in before (signed cookie)."""

    address: str
    user_agent: str = ""
    device: tuple[int, str] | None = None  # user ID, random name


class WrongPassword(NotSignedIn):
    def __init__(self) -> None:
        super().__init__("The e-mail address or the password is wrong.")


class NotConfirmed(Problem):
    status = 403

    def __init__(self, field: str) -> None:
        message = "This is not your password."
        super().__init__(message, errors=[{"field": field, "message": message}])


class Accounts:
    def __init__(
        self,
        config: Config,
        database: Database,
        passwords: Passwords,
        limiter: RateLimiter,
        before_deletion: Erase = do_nothing,
        on_deletion: Sequence[Erase] = (),
    ) -> None:
        """`on_deletion` deletes other data of an account in the transaction that deletes the account.

        `before_deletion` does what takes long in a transaction of its own, because the deletion locks rows of other users.
        """
        self._login_limit = config.rate_limit_login
        self._login_limit_of_address = config.rate_limit_login.times(LOGINS_PER_ADDRESS)
        self._register_limit = config.rate_limit_register
        self._database = database
        self._passwords = passwords
        self._limiter = limiter
        self._before_deletion = before_deletion
        self._on_deletion = on_deletion
        self.before_sign_in: list[Callable[[int], None]] = []  # called with the user ID

    def get(self, user_id: int) -> User | None:
        return self._database.run(store.by_id, user_id)

    def by_email(self, email: str) -> User | None:
        return self._database.run(store.by_email, email.strip().lower())

    def password_versions(self, user_ids: Sequence[int]) -> dict[int, int]:
        """Return the password version of each user that exists, by user ID."""
        return self._database.run(self.read_password_versions, user_ids)

    def read_password_versions(self, connection: Connection, user_ids: Sequence[int]) -> dict[int, int]:
        """Like `password_versions`, in the caller's transaction."""
        return store.password_versions(connection, user_ids)

    def register(self, email: str, password: str, client: Client) -> User:
        """Create an account. Raises Invalid, Conflict (e-mail address taken), TooMany.

        Only this method reveals whether an account exists; therefore the rate limit is checked first.
        """
        email = normalize_email(email)
        if complaint := find_weakness(password, email):
            raise Invalid.field("password", complaint)
        buckets: Buckets = {f"register:{network_of(client.address)}": self._register_limit}
        token = self._acquire(buckets, email, client, "registration")
        try:
            user = self._database.run(store.add, email, self._passwords.hash(password))
        except EmailTaken:
            audit.log_event("registration.refused", client.address, account=audit.account_digest(email), reason="taken")
            raise Conflict("An account with this e-mail address exists already.") from None
        except BaseException:  # nothing was registered and nothing revealed
            self._limiter.release(buckets, token)
            raise
        metrics.attempts.labels("registration", "succeeded").inc()
        audit.log_event("registration.succeeded", client.address, user=user.id)
        return user

    def add_without_limit(self, email: str, password: str) -> User:
        """Create an account without checks, for commands of an operator."""
        return self._database.run(store.add, email, self._passwords.hash(password))

    def log_in(self, email: str, password: str, client: Client) -> User:
        """Check a password. Raises WrongPassword and TooMany.

        Message and duration are the same whether or not the account exists.
        """
        email = email.strip().lower()
        user = self._database.run(store.by_email, email) if EMAIL.fullmatch(email) else None
        with self._attempt(user, email, client, "login"):
            match = self._passwords.verify(user.password_hash if user else None, password)
            if not match:
                metrics.attempts.labels("login", "failed").inc()
                audit.log_event("login.failed", client.address, account=audit.account_digest(email))
                raise WrongPassword
        assert user is not None
        metrics.attempts.labels("login", "succeeded").inc()
        audit.log_event("login.succeeded", client.address, user=user.id)
        return self._set_password(user, password, version=user.password_version) if match is Match.OUTDATED else user

    def change_password(self, user: User, current: str, new: str, client: Client) -> User:
        """Return the user with the new password version. Sessions with an older version are no longer valid."""
        self._confirm(user, current, client, "current_password")
        if complaint := find_weakness(new, user.email):
            raise Invalid.field("new_password", complaint)
        changed = self._set_password(user, new, version=user.password_version + 1)
        audit.log_event("password.changed", client.address, user=user.id)
        return changed

    def delete(self, user: User, password: str, client: Client) -> None:
        self._confirm(user, password, client, "password")
        self.delete_without_password(user.id)
        audit.log_event("account.deleted", client.address, user=user.id)

    def delete_without_password(self, user_id: int) -> None:
        """Delete an account that a command of an operator has created."""
        self._database.run_within(DELETION_TIMEOUT_SECONDS, self._before_deletion, user_id)
        self._database.run_within(DELETION_TIMEOUT_SECONDS, self._remove, user_id)

    def _remove(self, connection: Connection, user_id: int) -> None:
        lock_user_for_deletion(connection, user_id)
        for erase in self._on_deletion:
            erase(connection, user_id)
        store.remove(connection, user_id)

    def _confirm(self, user: User, password: str, client: Client, field: str) -> None:
        with self._attempt(user, user.email, client, "confirmation"):
            if not self._passwords.verify(user.password_hash, password):
                metrics.attempts.labels("confirmation", "failed").inc()
                audit.log_event("confirmation.failed", client.address, user=user.id)
                raise NotConfirmed(field)
        metrics.attempts.labels("confirmation", "succeeded").inc()

    @contextmanager
    def _attempt(self, user: User | None, email: str, client: Client, kind: str) -> Iterator[None]:
        """Count an attempt in advance, and release it unless the password was wrong."""
        buckets = self._login_buckets(user, email, client)
        token = self._acquire(buckets, email, client, kind)
        try:
            yield
        except (WrongPassword, NotConfirmed):
            raise
        except BaseException:  # the password could not be checked
            self._limiter.release(buckets, token)
            raise
        self._limiter.release(buckets, token)

    def _login_buckets(self, user: User | None, email: str, client: Client) -> Buckets:
        # A browser in which the owner has signed in before has its own bucket: others can't use up the owner's attempts.
        # https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies
        if user and client.device and client.device[0] == user.id:
            return {f"login:device:{client.device[1]}": self._login_limit}
        return {
            f"login:account:{email}": self._login_limit,
            f"login:address:{network_of(client.address)}": self._login_limit_of_address,
        }

    def _acquire(self, buckets: Buckets, email: str, client: Client, kind: str) -> str:
        token = secrets.token_hex(8)
        if seconds := self._limiter.acquire(buckets, token):
            metrics.attempts.labels(kind, "limited").inc()
            audit.log_event(f"{kind}.limited", client.address, account=audit.account_digest(email))
            raise TooMany("Too many attempts. Please wait before you try again.", retry_after=seconds)
        return token

    def _set_password(self, user: User, password: str, version: int) -> User:
        password_hash = self._passwords.hash(password)
        if not self._database.run(store.set_password, user, password_hash, version=version):
            raise Conflict("The password was changed by another request at the same time.")
        return replace(user, password_hash=password_hash, password_version=version)


def normalize_email(text: str) -> str:
    email = text.strip().lower()
    if len(email) > MAX_EMAIL_LENGTH or not EMAIL.fullmatch(email):
        raise Invalid.field("email", "This is not an e-mail address.")
    return email
