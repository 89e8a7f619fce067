"""The load of a rehearsal: requests at a fixed rate, notifications, sessions that end while their requests are under way."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.pool import Pool

from app.core.errors import Unavailable
from app.operations.rehearsal.measurements import Request
from app.operations.rehearsal.people import Person, SignInFailed, sign_in
from app.operations.rehearsal.web import TIMEOUT_SECONDS, Answer, NoAnswer, Web

TICK_SECONDS = 0.02
LAST_SECONDS = 3.0
RACERS = 6  # requests under way when their session ends
CHECKS = 6  # of an ended session: so many instances are asked, if there are so many

UP_TO_NOTHING = 0  # marks nothing as read, but goes all the way that a change goes


class Steadily:
    """Starts `act(0)`, `act(1)`, ... on time, whether those before have ended or not."""

    def __init__(self, per_second: float, act: Callable[[int], Any], places: int = 1000) -> None:
        self._per_second = per_second
        self._act = act
        self._pool = Pool(places)
        self._pace = gevent.spawn(self._run)

    def finish(self) -> None:
        """No further ones; those under way come to their end."""
        self._pace.kill()
        self._pool.join(timeout=2 * TIMEOUT_SECONDS)

    def kill(self) -> None:
        """What instances are just doing for a user is done before that user is deleted, if it does not take long."""
        self._pace.kill()
        self._pool.join(timeout=LAST_SECONDS)
        self._pool.kill()

    def _run(self) -> None:
        started = time.monotonic()
        for number in itertools.count():
            gevent.sleep(max(0.0, started + number / self._per_second - time.monotonic()))
            self._pool.spawn(self._act, number)


class Requests:
    """Asked of the fleet, each once, and noted."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self.done: list[Request] = []

    def ask(self, method: str, path: str, person: Person, *, fresh: bool = True, **body: Any) -> Answer | None:
        """None: nobody answered."""
        started, answer, why = time.monotonic(), None, ""
        content = json.dumps(body).encode() if body else None
        try:
            answer = self._web.ask(method, path, person.cookie, content, fresh=fresh)
            why = answer.complaint if answer.status >= 400 else ""
        except NoAnswer as error:
            why = str(error)
        seconds, status = time.monotonic() - started, answer.status if answer else 0
        may_retry = answer is not None and "Retry-After" in answer.headers
        self.done.append(Request(started, seconds, method, status, person.id, may_retry, why))
        return answer


class HttpLoad:
    """GET and POST by turns, of all users, every other one on a connection of its own."""

    def __init__(self, requests: Requests, people: Sequence[Person]) -> None:
        self._requests = requests
        self._people = people

    def send(self, number: int) -> None:
        person, fresh = self._people[number % len(self._people)], number % 4 < 2
        if number % 2:
            self._requests.ask("POST", "/api/notifications/read", person, fresh=fresh, up_to=UP_TO_NOTHING)
        else:
            self._requests.ask("GET", "/api/auth/me", person, fresh=fresh)


class Sender:
    """Notifications to one user after the other. What `send` has returned is accepted, and must arrive."""

    def __init__(self, send: Callable[[int], int], people: Sequence[Person]) -> None:
        """`send(user id)` returns the number of the notification."""
        self._send = send
        self._people = people
        self.accepted: dict[int, dict[int, float]] = defaultdict(dict)

    def send(self, number: int) -> None:
        user_id = self._people[number % len(self._people)].id
        try:
            seq = self._send(user_id)
        except Unavailable:
            return
        self.accepted[user_id][seq] = time.monotonic()


class Logouts:
    """Sessions that end while requests of theirs are under way on all instances."""

    def __init__(self, web: Web, people: Sequence[Person]) -> None:
        self._web = web
        self._people = people
        self._ended: list[str] = []  # cookies

    def race(self, number: int) -> None:
        try:
            cookie = sign_in(self._web, self._people[number % len(self._people)], attempts=1).cookie
        except SignInFailed:
            return
        racers = [gevent.spawn(self._request, cookie, racer) for racer in range(RACERS)]
        gevent.sleep(random.uniform(0, 0.02))  # noqa: S311 - into the middle of them
        try:
            if self._web.post("/api/auth/logout", cookie).status == 204:
                self._ended.append(cookie)
        except NoAnswer:
            pass
        gevent.joinall(racers)

    def count_revived(self) -> tuple[int, int]:
        """How many sessions were ended, and how many of them are valid all the same, on any instance."""
        ended = list(self._ended)
        return len(ended), sum(Pool(RACERS).imap_unordered(self._is_valid, ended))

    def _is_valid(self, cookie: str) -> bool:
        statuses = [self._request(cookie, 0) for _ in range(CHECKS)]
        return any(200 <= status < 300 for status in statuses)

    def _request(self, cookie: str, number: int) -> int:
        try:
            if number % 2:
                return self._web.post("/api/notifications/read", cookie, up_to=UP_TO_NOTHING).status
            return self._web.get("/api/auth/me", cookie).status
        except NoAnswer:
            return 0


class Stalls:
    """The moments in which this process did not come to run: what it measured then is its own lateness."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []  # when, how long

    def run(self) -> None:
        """For ever."""
        before = time.monotonic()
        while True:
            gevent.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._seen.append((now, now - before - TICK_SECONDS))
            before = now

    def longest(self, started: float, ended: float) -> float:
        return max((length for at, length in self._seen if started <= at <= ended), default=0.0)
