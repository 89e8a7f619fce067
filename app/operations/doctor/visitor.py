"""A user of a minute, who signs in at each address: whether the sessions are shared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

import requests

from app.core.errors import Unavailable
from app.operations.doctor.findings import Finding, fail, ok, warn
from app.operations.doctor.site import Site, Unreachable
from app.sessions.store import SessionStore, record_key

COOKIES = ("__Host-session", "session")
FORGED_ADDRESS = "203.0.113.7"  # of a network that nobody has: RFC 5737
REPEATS_PER_INSTANCE = 3


@dataclass(frozen=True)
class Visitor:
    id: int
    email: str
    password: str


@dataclass(frozen=True)
class Login:
    """A session that was opened at an address, and the cookie of it."""

    site: Site
    instance_id: str
    cookie_name: str
    cookie_value: str

    @property
    def cookie(self) -> str:
        return f"{self.cookie_name}={self.cookie_value}"

    @property
    def record(self) -> str:
        return record_key(self.cookie_value.rpartition(".")[0])

    def address_seen(self) -> str | None:
        """Of us, as the instance saw it at the sign-in; None if it does not tell."""
        try:
            answer = self.site.get("/api/auth/sessions", Cookie=self.cookie)
        except Unreachable:
            return None
        try:
            sessions = answer.json()["sessions"]
        except (ValueError, KeyError, TypeError):
            return None
        return next((_plain(entry["ip"]) for entry in sessions if entry["current"]), None)

    def end(self) -> None:
        self.site.post("/api/auth/logout", Cookie=self.cookie)


class Refused(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


def log_in(site: Site, visitor: Visitor, **headers: str) -> Login:
    """Raises Refused, with what is to be said about it."""
    try:
        answer = site.post("/api/auth/login", {"email": visitor.email, "password": visitor.password}, **headers)
    except Unreachable as error:
        raise Refused(
            fail(f"{site.url}: signing in got no answer: {error}", "Look for POST /api/auth/login in the logs")
        ) from None
    if answer.status_code != 200:
        raise Refused(_refusal(site, answer))
    for name, morsel in _cookies(answer).items():
        if name in COOKIES:
            return Login(site, answer.headers.get("X-Instance-Id", "an instance"), name, morsel)
    raise Refused(fail(f"{site.url}: signing in brought no cookie", "The proxy has to pass Set-Cookie on"))


def sessions_are_shared(logins: list[Login], store: SessionStore) -> Iterator[Finding]:
    """The session of the first is known at all addresses, by each instance there; and all lie in the store of this process."""
    first = logins[0]
    elsewhere = _not_in(store, logins)
    for login in elsewhere:
        yield fail(
            f"{login.site.url}: sessions of {login.instance_id} are not in the store that this process uses",
            "REDIS_URL (DATABASE_URL in embedded mode) differs: compare host, port and database number with those here",
        )
    for site in [login.site for login in logins]:
        yield _is_known(first, site, same_store=not elsewhere)
    if len({login.cookie_name for login in logins}) > 1:
        yield fail("sessions: the addresses use different cookies", "APP_ENV has to be the same in all instances")


def _is_known(login: Login, site: Site, *, same_store: bool) -> Finding:
    known, unknown = set[str](), set[str]()
    for _ in range(REPEATS_PER_INSTANCE * max(1, len(site.instances))):
        try:
            answer = site.get("/api/auth/me", Cookie=login.cookie)
        except Unreachable as error:
            return fail(f"{site.url}: /api/auth/me got no answer: {error}", "Look for it in the logs of the instances")
        names = known if answer.status_code == 200 else unknown
        names.add(answer.headers.get("X-Instance-Id", f"status {answer.status_code}"))
        if known | unknown >= site.instances:
            break
    opened = f"a session opened at {login.site.url} ({login.instance_id})"
    if not unknown:
        return ok(f"sessions: {opened} is known at {site.url} ({', '.join(sorted(known))})")
    return fail(
        f"sessions: {opened} is not known at {site.url} by {', '.join(sorted(unknown))}",
        "The same SESSION_SECRET, SESSION_ENCRYPTION_KEY and APP_ENV in all instances?"
        if same_store
        else "They use different stores: give all instances the same REDIS_URL, with USE_REDIS_SESSIONS=true",
    )


def _not_in(store: SessionStore, logins: Iterable[Login]) -> list[Login]:
    """Those whose record is not in the store; none, where it can't be asked."""
    found = {login.record: login for login in logins}
    try:
        living = store.existing(list(found))
    except Unavailable:
        return []
    return [login for record, login in found.items() if record not in living]


def _plain(address: str) -> str:
    """An IPv4 address as such, though an instance that listens on IPv6 sees it as ::ffff:127.0.0.1."""
    return address.removeprefix("::ffff:")


def _cookies(answer: requests.Response) -> dict[str, str]:
    jar: SimpleCookie = SimpleCookie()
    for header in answer.raw.headers.getlist("Set-Cookie"):
        jar.load(header)
    return {name: morsel.value for name, morsel in jar.items()}


def _refusal(site: Site, answer: requests.Response) -> Finding:
    who = answer.headers.get("X-Instance-Id", "what stands before the instances")
    text = f"{site.url}: signing in was answered {answer.status_code} by {who}: {_detail(answer)}"
    if answer.status_code == 401:
        return fail(
            f"{site.url}: {who} does not know the account that was just made in the database of this process",
            "DATABASE_URL differs: compare host, port and name of the database with those here",
        )
    if answer.status_code == 429:
        return warn(text, "A rate limit: see 429 in docs/troubleshooting.md")
    if answer.status_code == 503:
        return fail(text, "A store does not answer it: see what was found about Redis and the database")
    return fail(text, "Look for POST /api/auth/login in the logs")


def _detail(answer: requests.Response) -> str:
    try:
        body: Any = answer.json()
        return str(body["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.reason or ""
