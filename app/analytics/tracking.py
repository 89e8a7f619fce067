"""The request's side of analytics: who is asking, what they want, and what the application itself records of a request.

Recording costs the request nothing: its events go to a buffer, from which a greenlet hands them on. In an outage the buffer
empties itself; nothing is stored of which it can't be known in time whether it may be.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import gevent
from flask import Flask, Response, after_this_request, current_app, g, request, url_for
from gevent.event import Event as Signal
from gevent.lock import RLock

from app.analytics.catalogue import BY_NAME, COLLECTED, PAGE_VIEWED, SIGNED_UP
from app.analytics.person import GPC, SESSION, USER
from app.analytics.service import Account, Analytics, Choice, Erased, Event, Person, Rejected
from app.auth.guards import current_user
from app.auth.service import Accounts
from app.core import metrics
from app.core.config import Config
from app.core.errors import Unavailable
from app.core.extensions import extension
from app.server.lifecycle import Lifecycle

log = logging.getLogger(__name__)

COOKIE_SECONDS = 365 * 86_400
NO = "no"
MAX_BUFFERED = 10_000
MAX_WAIT_SECONDS = 5.0  # in the buffer
RETRY_SECONDS = 0.5
CHECKED_AT_ONCE = 10
PAUSE_SECONDS = 0.001  # gevent would look after no other request meanwhile, if it were 0

_BY_ENDPOINT: dict[str, list[str]] = {}
for _kind in COLLECTED:
    for _endpoint in _kind.endpoints:
        _BY_ENDPOINT.setdefault(_endpoint, []).append(_kind.name)


@dataclass(frozen=True)
class Passer:
    """An anonymous visitor, before the day's hash has made a name of it. In memory only."""

    address: str
    user_agent: str


@dataclass(frozen=True)
class Recorded:
    author: Account | Passer
    event: Event
    at: float = field(default_factory=time.monotonic)


class Recorder:
    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics
        self._buffer: deque[Recorded] = deque()
        self._filled = Signal()
        self._handing_on = RLock()
        self._is_closing = False

    def put(self, recorded: Recorded) -> None:
        if len(self._buffer) >= MAX_BUFFERED:
            metrics.events_unrecorded.inc()
            return
        self._buffer.append(recorded)
        self._filled.set()

    def run(self) -> None:
        """For ever, as a greenlet."""
        while True:
            self._filled.wait()
            self._filled.clear()
            self.hand_on()

    def close(self) -> None:
        """Nothing is tried twice any more."""
        self._is_closing = True
        self.hand_on()

    def hand_on(self) -> None:
        """All that is there. What nobody takes in time is given up."""
        with self._handing_on:
            while self._buffer:
                recorded = self._buffer[0]
                if time.monotonic() - recorded.at > MAX_WAIT_SECONDS:
                    self._give_up(1)
                elif self._take(recorded):
                    self._buffer.popleft()
                elif self._is_closing:
                    self._give_up(len(self._buffer))
                else:
                    gevent.sleep(RETRY_SECONDS)

    def _give_up(self, count: int) -> None:
        metrics.events_unrecorded.inc(count)
        for _ in range(count):
            self._buffer.popleft()

    def _take(self, recorded: Recorded) -> bool:
        """False if it has to be tried again."""
        author = recorded.author
        try:
            person = author if isinstance(author, Account) else self._analytics.visitor(author.address, author.user_agent)
            if not self._analytics.has_refused_since(person, recorded.event.occurred_at):
                self._analytics.take(person, [recorded.event])
        except Unavailable:
            return False
        except Exception:  # tried again, it would keep back all others
            log.exception("an event can't be recorded")
            metrics.events_unrecorded.inc()
        return True


def init_app(app: Flask, config: Config, analytics: Analytics, accounts: Accounts, lifecycle: Lifecycle) -> None:
    app.extensions["analytics"] = analytics
    app.extensions["recorder"] = recorder = Recorder(analytics)
    app.config["ANALYTICS_COOKIE_NAME"] = "__Host-analytics" if config.production else "analytics"
    accounts.before_sign_in.append(carry_over)
    app.after_request(_record_request)
    lifecycle.add("analytics", background=recorder.run, close=recorder.close)


# What somebody wants. All raise Unavailable where that can't be read or saved.


def choice() -> Choice:
    if current_user() is None and not _browser_says_no():  # there is nobody to ask about
        return Choice(gpc(), GPC if gpc() else None, None)
    return _analytics().choice(person(), browser_says_no=_browser_says_no(), gpc=gpc())


def is_welcome() -> bool:
    """Whether a page may bring the script that counts. Fails closed."""
    if gpc() or _browser_says_no():
        return False
    user = current_user()
    try:
        return user is None or _analytics().is_open(Account(user.id))
    except Unavailable:
        return False


def opt_out() -> Choice:
    asking = person()
    fenced_at = _analytics().opt_out(asking)
    _set_cookie(NO, COOKIE_SECONDS)
    return Choice(True, USER if isinstance(asking, Account) else SESSION, fenced_at)


def opt_in() -> Choice:
    _analytics().opt_in(person())
    _set_cookie("", 0)
    return Choice(gpc(), GPC if gpc() else None, None)


def erase() -> Erased:
    return _analytics().erase(person())


def carry_over(user_id: int) -> None:
    """What the browser has said counts for the account that signs in with it, from the first moment on."""
    if _browser_says_no():
        _analytics().opt_out(Account(user_id))


# Events.


def check(items: list[Any]) -> tuple[list[Event], list[Rejected]]:
    """A few at a time: hostile ones take longer, and other requests have their turn in between."""
    events: list[Event] = []
    rejected: list[Rejected] = []
    for start in range(0, len(items), CHECKED_AT_ONCE):
        if start:
            gevent.sleep(PAUSE_SECONDS)
        good, bad = _analytics().check(items[start : start + CHECKED_AT_ONCE])
        events += good
        rejected += [replace(one, index=one.index + start) for one in bad]
    return events, rejected


def take(events: list[Event]) -> bool:
    """False if whoever asks does not want that. Raises Unavailable."""
    asking = person()
    if gpc() or _browser_says_no() or not _is_known_who():
        return False
    return _analytics().take(asking, events)


def record(name: str, **properties: str | int) -> None:
    """An event of the catalogue, of whoever asks; in the background."""
    if gpc() or _browser_says_no() or not _is_known_who():
        return
    event = Event(str(uuid.uuid4()), name, BY_NAME[name].category, dict(properties), datetime.now(UTC))
    _recorder().put(Recorded(_author(name), event))


def _record_request(response: Response) -> Response:
    names, is_page = _BY_ENDPOINT.get(request.endpoint or "", ()), _is_page(response)
    if (names or is_page) and response.status_code < 400 and is_a_visit() and not _leads_to_sign_in(response):
        for name in names:
            record(name)
        if is_page:
            record(PAGE_VIEWED, path=page_path())
    return response


def page_path() -> str:
    """The address of the page with placeholders instead of numbers: `/repositories/<id>`."""
    return re.sub(r"<[^<>]*>", "<id>", str(request.url_rule))


def _leads_to_sign_in(response: Response) -> bool:
    """Then nothing was done or shown."""
    return response.status_code == 303 and urlsplit(response.location or "").path == url_for("web.login")


def _is_page(response: Response) -> bool:
    return (
        request.method == "GET"
        and request.blueprint == "web"
        and response.status_code == 200
        and response.mimetype == "text/html"
    )


def is_a_visit() -> bool:
    """A page that a script fetches to bring itself up to date, or a browser in advance, was not opened by anybody."""
    if request.method == "HEAD":
        return False
    if request.method != "GET":
        return True
    return request.headers.get("Sec-Fetch-Dest", "document") == "document" and "Sec-Purpose" not in request.headers


def _is_known_who() -> bool:
    """Behind a session that was not looked at, or that has ended, may be an account that has said no."""
    return g.get("user") is not None or current_app.config["SESSION_COOKIE_NAME"] not in request.cookies


def _author(name: str) -> Account | Passer:
    """A sign-up is the visitor's: there was no account yet when it was asked for."""
    if name == SIGNED_UP or g.get("user") is None:
        return Passer(*_appearance())
    return Account(g.user.id)


def person() -> Person:
    """Who is asking."""
    user = current_user()
    return Account(user.id) if user else _analytics().visitor(*_appearance())


def _appearance() -> tuple[str, str]:
    return request.remote_addr or "", request.user_agent.string


def gpc() -> bool:
    """https://www.w3.org/TR/gpc/: exactly this value is a wish, anything else is none."""
    return request.headers.get("Sec-GPC") == "1"


def _browser_says_no() -> bool:
    return request.cookies.get(current_app.config["ANALYTICS_COOKIE_NAME"]) == NO


def _set_cookie(value: str, max_age: int) -> None:
    """It names nobody. The page's script may read it, to fall silent in all tabs at once."""
    name, secure = current_app.config["ANALYTICS_COOKIE_NAME"], current_app.config["SESSION_COOKIE_SECURE"]

    @after_this_request
    def set_cookie(response: Response) -> Response:
        response.set_cookie(name, value, max_age=max_age, path="/", samesite="Lax", secure=secure)
        return response


def _analytics() -> Analytics:
    return extension(Analytics, "analytics")


def _recorder() -> Recorder:
    return extension(Recorder, "recorder")
