"""The load of a rehearsal: requests at a constant rate, notifications, and logouts with requests in flight."""

import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gevent
from gevent.pool import Pool

from app.core.errors import Unavailable
from app.operations.rehearsal.http_client import TIMEOUT_SECONDS, BalancerClient, HttpResponse, NoResponse
from app.operations.rehearsal.measurements import SentRequest
from app.operations.rehearsal.users import RehearsalUser, SignInFailed, sign_in

LAST_REQUESTS_SECONDS = 3.0
CONCURRENT_REQUESTS = 6  # in flight while their session ends
CHECKS = 6  # requests with the cookie of an ended session, to reach several instances

UP_TO_NOTHING = 0  # marks nothing as read, but takes the whole path of a write


class ConstantRateLoad:
    """Starts `act(0)`, `act(1)`, ... at a constant rate, whether or not earlier calls have returned."""

    def __init__(self, per_second: float, act: Callable[[int], Any], max_concurrent: int = 1000) -> None:
        self._per_second = per_second
        self._act = act
        self._pool = Pool(max_concurrent)
        self._pace = gevent.spawn(self._run)

    def finish(self) -> None:
        """Start no further calls and wait for those in progress."""
        self._pace.kill()
        self._pool.join(timeout=2 * TIMEOUT_SECONDS)

    def kill(self) -> None:
        """Stop the load. Calls in progress get a few seconds, so that instances finish them before the users are deleted."""
        self._pace.kill()
        self._pool.join(timeout=LAST_REQUESTS_SECONDS)
        self._pool.kill()

    def _run(self) -> None:
        started = time.monotonic()
        for number in itertools.count():
            gevent.sleep(max(0.0, started + number / self._per_second - time.monotonic()))
            self._pool.spawn(self._act, number)


def kill_all(loads: Iterable[ConstantRateLoad]) -> None:
    gevent.joinall([gevent.spawn(load.kill) for load in loads])


class RecordingClient:
    """Sends requests as a user, without retries, and records each of them."""

    def __init__(self, client: BalancerClient) -> None:
        self._client = client
        self.sent: list[SentRequest] = []

    def request(self, method: str, path: str, user: RehearsalUser, *, fresh: bool = True, **body: Any) -> HttpResponse | None:
        """Return the response, or None if there was none."""
        started, response, error = time.monotonic(), None, ""
        content = json.dumps(body).encode() if body else None
        try:
            response = self._client.request(method, path, user.cookie, content, fresh=fresh)
            error = response.error if response.status >= 400 else ""
        except NoResponse as failure:
            error = str(failure)
        seconds, status = time.monotonic() - started, response.status if response else 0
        may_retry = response is not None and "Retry-After" in response.headers
        self.sent.append(SentRequest(started, seconds, method, status, user.id, may_retry, error))
        return response


class HttpLoad:
    """Alternating GET and POST requests of all users, half of them on fresh connections."""

    def __init__(self, client: RecordingClient, users: Sequence[RehearsalUser]) -> None:
        self._client = client
        self._users = users

    def send(self, number: int) -> None:
        user, fresh = self._users[number % len(self._users)], number % 4 < 2
        if number % 2:
            self._client.request("POST", "/api/notifications/read", user, fresh=fresh, up_to=UP_TO_NOTHING)
        else:
            self._client.request("GET", "/api/auth/me", user, fresh=fresh)


class NotificationLoad:
    """Notifications to one user after another. A notification for which `send` returns is accepted and must arrive."""

    def __init__(self, send: Callable[[int], int], users: Sequence[RehearsalUser]) -> None:
        """`send(user ID)` returns the `seq` of the notification."""
        self._send = send
        self._users = users
        self.accepted: dict[int, dict[int, float]] = defaultdict(dict)

    def send(self, number: int) -> None:
        user_id = self._users[number % len(self._users)].id
        try:
            seq = self._send(user_id)
        except Unavailable:
            return
        self.accepted[user_id][seq] = time.monotonic()


class LogoutLoad:
    """Logouts of sessions that have requests in flight on all instances."""

    def __init__(self, client: BalancerClient, users: Sequence[RehearsalUser]) -> None:
        self._client = client
        self._users = users
        self._ended: list[str] = []  # cookies

    def race(self, number: int) -> None:
        try:
            cookie = sign_in(self._client, self._users[number % len(self._users)], attempts=1).cookie
        except SignInFailed:
            return
        requests = [gevent.spawn(self._request, cookie, number) for number in range(CONCURRENT_REQUESTS)]
        gevent.sleep(random.uniform(0, 0.02))  # noqa: S311 - while they are in flight
        try:
            if self._client.post("/api/auth/logout", cookie).status == 204:
                self._ended.append(cookie)
        except NoResponse:
            pass
        gevent.joinall(requests)

    def count_revived(self) -> tuple[int, int]:
        """Return how many sessions were ended, and how many of them are still valid on any instance."""
        ended = list(self._ended)
        return len(ended), sum(Pool(CONCURRENT_REQUESTS).imap_unordered(self._is_valid, ended))

    def _is_valid(self, cookie: str) -> bool:
        statuses = [self._request(cookie, 0) for _ in range(CHECKS)]
        return any(200 <= status < 300 for status in statuses)

    def _request(self, cookie: str, number: int) -> int:
        try:
            if number % 2:
                return self._client.post("/api/notifications/read", cookie, up_to=UP_TO_NOTHING).status
            return self._client.get("/api/auth/me", cookie).status
        except NoResponse:
            return 0
