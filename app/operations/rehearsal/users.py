"""The users of a rehearsal: created in the database, signed in over HTTP and deleted with all their data at the end."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from app.core.errors import Unavailable
from app.operations.rehearsal.http_client import BalancerClient, NoResponse

SIGN_IN_ATTEMPTS = 5
DELETION_SECONDS, DELETION_RETRY_SECONDS = 10.0, 0.2  # while a store is unavailable


@dataclass(frozen=True)
class RehearsalUser:
    id: int
    email: str
    password: str
    cookie: str = ""  # session cookie
    device: str = ""  # device cookie: failed attempts of other devices do not lock this one out


class SignInFailed(Exception):
    pass


@contextmanager
def rehearsal_users(
    count: int, register: Callable[[str, str], int], delete: Callable[[int], None], tell: Callable[[str], None]
) -> Iterator[list[RehearsalUser]]:
    """Create users who are not signed in, and delete them at the end.

    `register(email, password)` returns the user ID; `delete(user ID)` ends the user's sessions too. Both raise Unavailable.
    """
    prefix = f"rehearsal-{secrets.token_hex(6)}"
    created: list[RehearsalUser] = []
    try:
        for number in range(count):
            email, password = f"{prefix}-{number}@example.org", secrets.token_urlsafe(16)
            created.append(RehearsalUser(register(email, password), email, password))
        yield created
    finally:
        remaining = [user.id for user in created]
        try:
            _delete_all(remaining, delete)
        finally:
            if remaining:
                statement = f"DELETE FROM users WHERE email LIKE '{prefix}-%'"  # noqa: S608 - printed only
                tell(f'{len(remaining)} rehearsal users were not deleted. Delete them: psql "$DATABASE_URL" -c "{statement}"')


def _delete_all(user_ids: list[int], delete: Callable[[int], None]) -> None:
    """Delete the users and remove them from the list. Give up when a store has been unavailable for DELETION_SECONDS."""
    deadline = time.monotonic() + DELETION_SECONDS
    while user_ids:
        try:
            delete(user_ids[-1])
        except Unavailable:
            if time.monotonic() > deadline:
                return
            time.sleep(DELETION_RETRY_SECONDS)
        else:
            user_ids.pop()
            deadline = time.monotonic() + DELETION_SECONDS


def sign_in(client: BalancerClient, user: RehearsalUser, attempts: int = SIGN_IN_ATTEMPTS) -> RehearsalUser:
    """Return the user with the cookie of a new session. Raise SignInFailed."""
    problem = ""
    for _ in range(attempts):
        try:
            response = client.post("/api/auth/login", user.device, email=user.email, password=user.password)
        except NoResponse as error:
            problem = str(error)
            continue
        if response.status == 200:
            return _with_cookies(user, response.cookies)
        problem = f"{response.instance or 'the load balancer'} answered {response.status}"
    raise SignInFailed(f"could not sign in: {problem}")


def _with_cookies(user: RehearsalUser, cookies: dict[str, str]) -> RehearsalUser:
    device, session = (
        "; ".join(f"{name}={value}" for name, value in cookies.items() if ("device" in name) is is_device)
        for is_device in (True, False)
    )
    return replace(user, cookie=session, device=device or user.device)
