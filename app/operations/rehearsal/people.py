"""The users of a rehearsal: made in the database, signed in over HTTP, and gone at the end with all that they had."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from gevent.pool import Pool

from app.core.errors import Unavailable
from app.operations.rehearsal.web import NoAnswer, Web

AT_ONCE = 4  # sign-ins: hashing keeps the instances' processors busy, and the limit on attempts counts those under way
SIGN_IN_ATTEMPTS = 5
REMOVAL_SECONDS = 30.0


class Account(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def email(self) -> str: ...


@dataclass(frozen=True)
class Person:
    id: int
    email: str
    password: str
    cookie: str = ""  # of the session
    device: str = ""  # the cookie of a browser that the user has signed in with: its attempts do not count for others


class SignInFailed(Exception):
    pass


@contextmanager
def people(
    count: int, register: Callable[[str, str], Account], remove: Callable[[int], None], tell: Callable[[str], None]
) -> Iterator[list[Person]]:
    """Not signed in yet. `register(email, password)`; `remove(user id)`, their sessions included: both raise Unavailable."""
    name = f"rehearsal-{secrets.token_hex(6)}"
    made: list[Person] = []
    try:
        for number in range(count):
            password = secrets.token_urlsafe(16)
            account = register(f"{name}-{number}@example.org", password)
            made.append(Person(account.id, account.email, password))
        yield made
    finally:
        left = _removed([person.id for person in made], remove)
        if left:
            tell(f"{left} users of the rehearsal could not be deleted: those whose address begins with {name}")


def _removed(user_ids: list[int], remove: Callable[[int], None]) -> int:
    """How many are left: those for whom there was no time, as the stores did not answer."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    while user_ids and time.monotonic() < deadline:
        with suppress(Unavailable):
            remove(user_ids[-1])
            user_ids.pop()
    return len(user_ids)


def sign_in_all(web: Web, made: list[Person]) -> list[Person]:
    """Raises SignInFailed."""
    return list(Pool(AT_ONCE).map(lambda person: sign_in(web, person), made))


def sign_in(web: Web, person: Person, attempts: int = SIGN_IN_ATTEMPTS) -> Person:
    """With a new session. Raises SignInFailed."""
    trouble = ""
    for _ in range(attempts):
        try:
            answer = web.post("/api/auth/login", person.device, email=person.email, password=person.password)
        except NoAnswer as error:
            trouble = str(error)
            continue
        if answer.status == 200:
            return _with_cookies(person, answer.cookies)
        trouble = f"{answer.instance or 'the balancer'} answered {answer.status}"
    raise SignInFailed(f"could not sign in: {trouble}")


def _with_cookies(person: Person, cookies: dict[str, str]) -> Person:
    device, session = (
        "; ".join(f"{name}={value}" for name, value in cookies.items() if ("device" in name) is wanted)
        for wanted in (True, False)
    )
    return replace(person, cookie=session, device=device or person.device)
