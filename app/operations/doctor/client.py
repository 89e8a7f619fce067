"""A temporary user that signs in at each address, and whether its sessions are shared."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

import requests

from app.core.errors import Unavailable
from app.operations.doctor.findings import Finding, fail, ok, warn
from app.operations.doctor.site import Site, Unreachable
from app.sessions.store import SessionStore, record_key

COOKIES = ("__Host-session", "reporadar_session")
FORGED_ADDRESS = "203.0.113.7"  # reserved for documentation: RFC 5737
REPEATS_PER_INSTANCE = 3


@dataclass(frozen=True)
class SignedInSession:
    """A session opened at an address, with its cookie."""

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

    def client_address(self) -> str | None:
        """Return the client address that the instance saw at the sign-in, or None if it can't be read."""
        try:
            response = self.site.get("/api/auth/sessions", Cookie=self.cookie)
        except Unreachable:
            return None
        try:
            sessions = response.json()["sessions"]
        except (ValueError, KeyError, TypeError):
            return None
        return next((_without_mapping(entry["ip"]) for entry in sessions if entry["current"]), None)

    def end(self) -> None:
        self.site.post("/api/auth/logout", Cookie=self.cookie)


class SignInRefused(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


@dataclass(frozen=True)
class TestClient:
    """A client with a temporary account."""

    user_id: int
    email: str
    password: str

    def sign_in(self, site: Site, **headers: str) -> SignedInSession:
        """Raises SignInRefused, with the finding."""
        try:
            response = site.post("/api/auth/login", {"email": self.email, "password": self.password}, **headers)
        except Unreachable as error:
            text = f"{site.url}: the sign-in got no response: {error}"
            raise SignInRefused(fail(text, "Find POST /api/auth/login in the logs")) from None
        if response.status_code != 200:
            raise SignInRefused(_sign_in_failure(site, response))
        for name, value in _cookies(response).items():
            if name in COOKIES:
                return SignedInSession(site, response.headers.get("X-Instance-Id", "an instance"), name, value)
        raise SignInRefused(fail(f"{site.url}: the sign-in set no cookie", "Let the proxy pass on the header Set-Cookie"))


def sessions_are_shared(sessions: list[SignedInSession], store: SessionStore) -> Iterator[Finding]:
    """Check that every instance knows the first session, and that all sessions are in the store of this process."""
    elsewhere = _missing_in(store, sessions)
    for session in elsewhere:
        yield fail(
            f"{session.site.url}: sessions of {session.instance_id} are not in the store that this process uses",
            "REDIS_URL (DATABASE_URL in embedded mode) differs: compare host, port and database number with those here",
        )
    for session in sessions:
        yield _is_known(sessions[0], session.site, same_store=not elsewhere)
    if len({session.cookie_name for session in sessions}) > 1:
        yield fail("sessions: the addresses use different cookies", "Set the same APP_ENV on all instances")


def _is_known(session: SignedInSession, site: Site, *, same_store: bool) -> Finding:
    known, unknown = set[str](), set[str]()
    for _ in range(REPEATS_PER_INSTANCE * max(1, len(site.instances))):
        try:
            response = site.get("/api/auth/me", Cookie=session.cookie)
        except Unreachable as error:
            return fail(f"{site.url}: GET /api/auth/me got no response: {error}", "Find it in the logs of the instances")
        names = known if response.status_code == 200 else unknown
        names.add(response.headers.get("X-Instance-Id", f"status {response.status_code}"))
        if known | unknown >= site.instances:
            break
    opened = f"a session opened at {session.site.url} ({session.instance_id})"
    if not unknown:
        return ok(f"sessions: {opened} is known at {site.url} ({', '.join(sorted(known))})")
    return fail(
        f"sessions: {opened} is not known at {site.url} by {', '.join(sorted(unknown))}",
        "Set the same SESSION_SECRET, SESSION_ENCRYPTION_KEY and APP_ENV on all instances"
        if same_store
        else "They use different stores: set the same REDIS_URL and USE_REDIS_SESSIONS=true on all instances",
    )


def _missing_in(store: SessionStore, sessions: Iterable[SignedInSession]) -> list[SignedInSession]:
    """Return the sessions without a record in the store; none if the store fails."""
    by_record = {session.record: session for session in sessions}
    try:
        existing = store.existing(list(by_record))
    except Unavailable:
        return []
    return [session for record, session in by_record.items() if record not in existing]


def _without_mapping(address: str) -> str:
    """Return an IPv4 address as such: an instance that listens on IPv6 sees ::ffff:127.0.0.1."""
    return address.removeprefix("::ffff:")


def _cookies(response: requests.Response) -> dict[str, str]:
    jar: SimpleCookie = SimpleCookie()
    for header in response.raw.headers.getlist("Set-Cookie"):
        jar.load(header)
    return {name: morsel.value for name, morsel in jar.items()}


def _sign_in_failure(site: Site, response: requests.Response) -> Finding:
    name = response.headers.get("X-Instance-Id", "the proxy")
    text = f"{site.url}: {name} answered the sign-in with {response.status_code}: {_detail(response)}"
    if response.status_code == 401:
        return fail(
            f"{site.url}: {name} does not know the account that was just created in the database of this process",
            "DATABASE_URL differs: compare host, port and name of the database with those here",
        )
    if response.status_code == 429:
        return warn(text, "The rate limit was reached: see 429 in docs/troubleshooting.md")
    if response.status_code == 503:
        return fail(text, "Redis or the database does not answer it: see the findings about them")
    return fail(text, "Find POST /api/auth/login in the logs")


def _detail(response: requests.Response) -> str:
    try:
        body: Any = response.json()
        return str(body["detail"])
    except (ValueError, KeyError, TypeError):
        return response.reason or ""
