"""The table in docs/degradation.md, executed: each state is created for real, and each cell is checked in it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from app.core.errors import Unavailable
from app.sessions.records import REFRESHES_PER_LIFETIME
from harness.degradation import DELAYED, READ_ONLY, UNAVAILABLE, WORKS, Cell, Row, parse
from harness.lateness import time_limit
from harness.processes import PATIENCE_SECONDS
from harness.scale import FULL, full_only
from harness.servers import ROOT, wait_until
from harness.sites import MAX_WRONG_PASSWORDS, SESSION_TTL_SECONDS, Site
from harness.sockets import Listener, WebSocket
from harness.states import STATES
from harness.users import PASSWORD, User

QUICK_SECONDS = 2.0  # for every response
EFFECT_SECONDS = PATIENCE_SECONDS  # until the effect of an accepted request is seen where the table says "works"
NO_EFFECT_SECONDS = 1.0  # for which it is not seen where the table says "delayed"
RECOVERY_SECONDS = 5.0
DELAYED_SECONDS = 2 * PATIENCE_SECONDS  # a job that was not picked up is re-enqueued within half a minute
REFRESH_SECONDS = SESSION_TTL_SECONDS / REFRESHES_PER_LIFETIME + 1
HEALTH_SECONDS = PATIENCE_SECONDS  # a frozen dependency fails after 5 s


class Outcome(NamedTuple):
    """The observed behaviour of a feature, and a condition that holds after the state because something was accepted."""

    cell: Cell
    promise: Callable[[], bool] = lambda: True


def timed(user: User, method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request. Fail if the response is late, is an error other than 503, or is a 503 without Retry-After."""
    with time_limit(QUICK_SECONDS, f"{method} {path}"):
        answer = user.request(method, path, **options)
    assert answer.status_code in range(500) or answer.status_code == 503, f"{method} {path}: {answer.status_code}"
    assert answer.status_code != 503 or int(answer.headers["Retry-After"]) > 0
    return answer


def word_of(answers: list[httpx.Response]) -> str:
    """Return WORKS if all succeeded and UNAVAILABLE if all are 503; otherwise the statuses, which are no word of the table."""
    statuses = {answer.status_code for answer in answers}
    if all(200 <= status < 300 for status in statuses):
        return WORKS
    return UNAVAILABLE if statuses == {503} else " ".join(f"{one.request.url.path}={one.status_code}" for one in answers)


def happens(condition: Callable[[], bool], seconds: float) -> bool:
    with suppress(AssertionError):
        return wait_until(condition, timeout=seconds)
    return False


def effect(expected: Cell, has_happened: Callable[[], bool]) -> Outcome:
    """Return whether the effect of an accepted request is seen in the state, or only afterwards."""
    seconds = EFFECT_SECONDS if expected.word == WORKS else NO_EFFECT_SECONDS
    return Outcome(Cell(WORKS if happens(has_happened, seconds) else DELAYED), has_happened)


class People:
    """Users for one state. Whatever they did before holds in it."""

    def __init__(self, site: Site) -> None:
        users = (User(site.entrance).register() for _ in range(100))
        self.ben = next(user for user in users if site.is_affected(user))  # opts out in the state
        self.cleo = User(site.entrance).register()  # opted out before
        for counted in (self.ben, self.cleo):  # so that their consent is cached
            assert send_event(counted, "before").json()["accepted"] == 1
        assert self.cleo.request("PUT", "/api/analytics/opt-out").status_code == 200
        self.cleo.client.cookies.delete("analytics")  # so that only the account's opt-out counts
        self.dan = User(site.entrance).register()  # signed out before, and kept the cookie
        self.eve = User(site.entrance)  # deleted a token before, and never had a session
        created = self.dan.post("/api/auth/tokens", name="one", scope="write").json()
        self.dead_token = {"Authorization": f"Bearer {created['token']}"}
        assert self.dan.request("DELETE", f"/api/auth/tokens/{created['id']}").status_code == 204
        cookie = self.dan.cookie
        assert self.dan.post("/api/auth/logout").status_code == 204
        self.dan.client.cookies.set("reporadar_session", cookie)


class Situation(NamedTuple):
    site: Site
    people: People
    pages: Listener  # Ada's open pages
    began_at: float  # by the monotonic clock


# The features. Each check returns what it saw; `expected` only decides how long it waits.


def check_pages(now: Situation, _: Cell) -> Outcome:
    visitor = User(now.site.entrance)
    return Outcome(Cell(word_of([timed(visitor, "GET", path) for path in ("/", "/login", "/register", "/about/scores")])))


def check_sign_in(now: Situation, _: Cell) -> Outcome:
    word = word_of([sign_in_again(now.site.ada)])
    assert passwords_are_limited(now)
    return Outcome(Cell(word))


def sign_in_again(user: User) -> httpx.Response:
    """Sign in from another browser."""
    return timed(User(*user.instances), "POST", "/api/auth/login", json={"email": user.email, "password": PASSWORD})


def passwords_are_limited(now: Situation) -> bool:
    """Return whether only so many wrong passwords of an account are answered as RATE_LIMIT_LOGIN allows."""
    wrong = {"email": now.people.dan.email, "password": "wrong horse battery"}
    for _ in range(MAX_WRONG_PASSWORDS + 1):
        status = timed(User(now.site.entrance), "POST", "/api/auth/login", json=wrong).status_code
        if status != 401:
            return status in (429, 503)
    return False


def check_signed_in_reads(now: Situation, expected: Cell) -> Outcome:
    if expected.word == WORKS:
        # Until the next request has to extend the session, if none did since the state began.
        wait_until(lambda: time.monotonic() > now.began_at + REFRESH_SECONDS)
    paths = ("/api/auth/me", "/api/repositories", "/api/notifications", "/", f"/repositories/{now.site.repository_id}")
    return Outcome(Cell(word_of([timed(now.site.ada, "GET", path) for path in paths])))


def check_changes(now: Situation, _: Cell) -> Outcome:
    tag, path = secrets.token_hex(4), f"/api/repositories/{now.site.repository_id}"
    word = word_of([timed(now.site.ada, "PUT", f"{path}/tags", json={"tags": [tag]})])

    def is_kept() -> bool:
        return bool(now.site.ada.get(path).json()["tags"] == [tag])

    return Outcome(Cell(word), is_kept if word == WORKS else lambda: True)


def check_sockets(now: Situation, _: Cell) -> Outcome:
    with ExitStack() as stack:
        with time_limit(QUICK_SECONDS, "the handshake"):
            socket = stack.enter_context(WebSocket(now.site.entrance, now.site.ada))
        if socket.status == 101:
            with time_limit(QUICK_SECONDS, "joining"):
                socket.join()
            return Outcome(Cell(WORKS))
        assert socket.status != 503 or "retry-after:" in socket.head.lower()
        return Outcome(Cell(str(socket.status)))


def check_notifications(now: Situation, expected: Cell) -> Outcome:
    try:
        sent = now.site.notifications.send(now.site.ada_id, "message", "In this state", {})
    except Unavailable:
        return Outcome(Cell(UNAVAILABLE))
    return effect(expected, lambda: sent.seq in now.pages.seqs)


def check_analyses(now: Situation, expected: Cell) -> Outcome:
    path = f"/api/repositories/{now.site.repository_id}"
    requested = timed(now.site.ada, "POST", f"{path}/analyses")
    if requested.status_code == 202:
        analysis_id = requested.json()["analysis"]["id"]
        return effect(expected, lambda: now.site.analysis_has_succeeded(analysis_id))
    return Outcome(Cell(_unchanged(requested, timed(now.site.ada, "GET", path))))


def check_events(now: Situation, expected: Cell) -> Outcome:
    before = now.site.events_of(now.site.ada.email)
    answer = send_event(now.site.ada)
    if answer.status_code != 202:
        return Outcome(Cell(word_of([answer])))
    assert answer.json()["accepted"] == 1
    return effect(expected, lambda: now.site.events_of(now.site.ada.email) > before)


def check_opt_out(now: Situation, _: Cell) -> Outcome:
    ben = now.people.ben
    answer = timed(ben, "PUT", "/api/analytics/opt-out")
    if answer.status_code != 200:
        return Outcome(Cell(_unchanged(answer, timed(ben, "GET", "/api/analytics/opt-out"))))
    ben.client.cookies.delete("analytics")
    assert is_refused(send_event(ben)), "an opt-out applies from its response on"
    return Outcome(Cell(WORKS), lambda: is_refused(send_event(ben)))


def check_health(now: Situation, expected: Cell) -> Outcome:
    def seen() -> Cell:
        answer = User(now.site.entrance).get("/health")
        return Cell(WORKS if answer.status_code == 200 else str(answer.status_code), answer.json()["status"])

    happens(lambda: seen() == expected, HEALTH_SECONDS)
    return Outcome(seen())


def _unchanged(change: httpx.Response, read: httpx.Response) -> str:
    """Return READ_ONLY if a change was answered with 503 and a read succeeded."""
    word = word_of([change, read])
    return READ_ONLY if (change.status_code, read.status_code) == (503, 200) else word


def send_event(user: User, name: str = "clicked") -> httpx.Response:
    event = {"id": secrets.token_hex(8), "name": name, "category": "test", "properties": {}}
    return timed(user, "POST", "/api/analytics/events", json={"events": [event]})


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code == 503 or (answer.json()["accepted"], answer.json()["opted_out"]) == (0, True)


FEATURES: dict[str, Callable[[Situation, Cell], Outcome]] = {
    "pages": check_pages,
    "sign-in": check_sign_in,
    "signed-in reads": check_signed_in_reads,
    "changes": check_changes,
    "sockets": check_sockets,
    "notifications": check_notifications,
    "analyses": check_analyses,
    "events": check_events,
    "opt-out": check_opt_out,
    "health": check_health,
}


def assert_nothing_fails_open(now: Situation) -> None:
    """Nobody gets more than they may, whatever does not answer."""
    site, people = now.site, now.people
    me = "/api/auth/me"
    assert timed(User(site.entrance), "GET", me).status_code in (401, 503)
    assert timed(people.dan, "GET", me).status_code in (401, 503), "a session that was ended"
    assert timed(people.eve, "GET", "/api/repositories", headers=people.dead_token).status_code in (401, 503), "a deleted token"
    assert timed(site.ada, "GET", "/api/fleet").status_code in (403, 503), "only for administrators"
    assert is_refused(send_event(people.cleo)), "an opt-out from before"


# The cells that `make test` checks: ten that fail in different ways.
QUICK = {
    "Redis: down": ("sign-in", "sockets", "events"),
    "PostgreSQL: down": ("pages", "signed-in reads", "notifications", "opt-out"),
    "PostgreSQL: read-only": ("changes", "analyses", "health"),
}
TABLE = parse((ROOT / "docs/degradation.md").read_text(), STATES, FEATURES)
ON_ONE_SITE = [state for state in STATES if STATES[state].site is Site and (FULL or state in QUICK)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("roots")) as site:
        yield site


@pytest.mark.parametrize("state", ON_ONE_SITE)
def test_cells(site: Site, state: str) -> None:
    row = TABLE[state]
    execute(site, state, row if FULL else {feature: row[feature] for feature in QUICK[state]})


@full_only
@pytest.mark.parametrize("state", [state for state in STATES if STATES[state].site is not Site])
def test_cells_on_a_special_site(state: str, tmp_path: Path) -> None:
    if STATES[state].needs_root and os.geteuid() != 0:
        pytest.skip("only root may mount file systems and create network namespaces")
    with STATES[state].site(tmp_path) as site:
        execute(site, state, TABLE[state])


@full_only
def test_opt_out_that_fails_open_is_noticed(tmp_path: Path) -> None:
    with Site(tmp_path, application="tests.faults.opt_out_fails_open:app") as site, Listener(site.ada) as pages:
        now = Situation(site, People(site), pages, time.monotonic())
        with pytest.raises(AssertionError, match="an opt-out applies from its response on"):
            check_opt_out(now, Cell(WORKS))


def execute(site: Site, state: str, row: Row) -> None:
    """Create a state, compare each feature with its cell, and require that everything works again afterwards."""
    people = People(site)
    with Listener(site.ada, transports=["websocket"]).connect(site.pages_entrance) as pages:
        now = Situation(site, people, pages, time.monotonic())
        with STATES[state].create(site):
            outcomes = {feature: FEATURES[feature](now, expected) for feature, expected in row.items()}
            assert_nothing_fails_open(now)
        assert {feature: str(outcome.cell) for feature, outcome in outcomes.items()} == {
            feature: str(expected) for feature, expected in row.items()
        }
        wait_until_recovered(now)
        for feature, outcome in outcomes.items():
            wait_until(outcome.promise, DELAYED_SECONDS, f"what was accepted of: {feature}")
    assert site.events_of(people.cleo.email) == 0


def wait_until_recovered(now: Situation) -> None:
    site = now.site
    probes: dict[str, Callable[[], bool]] = {
        "signed-in reads": lambda: site.ada.get("/api/auth/me").status_code == 200,
        "sign-in": lambda: (
            User(site.entrance).post("/api/auth/login", email=site.ada.email, password=PASSWORD).status_code == 200
        ),
        "changes": lambda: site.ada.post("/api/notifications/read", up_to=0).status_code == 204,
        "sockets": lambda: check_sockets(now, Cell(WORKS)).cell.word == WORKS,
        "events": lambda: send_event(site.ada).status_code == 202,
        "health": lambda: User(site.entrance).get("/health").status_code == 200,
    }
    with time_limit(RECOVERY_SECONDS, "recovery"):
        for name, works in probes.items():
            wait_until(works, what=f"{name} to work again")
