"""Analytics of a request: who sent it, whether that person opted out, and the events that the application records itself.

Recording does not delay the request: events go to a buffer in memory, which a background greenlet flushes. Events that cannot be
accepted within MAX_BUFFER_SECONDS, for example because consent cannot be read in an outage, are dropped.
"""

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

from app.analytics.catalogue import BY_NAME, DECLARED_EVENTS, PAGE_VIEWED, SIGNED_UP
from app.analytics.person import GPC, SESSION, USER
from app.analytics.service import Analytics, AnalyticsAccount, ErasureResult, Event, OptOutStatus, Person, RejectedEvent
from app.auth.guards import current_user
from app.auth.service import Accounts
from app.core import metrics
from app.core.config import Config
from app.core.errors import Unavailable
from app.core.extensions import extension
from app.http.security import bearer_token
from app.server.lifecycle import Lifecycle

log = logging.getLogger(__name__)

COOKIE_SECONDS = 365 * 86_400
OPTED_OUT = "no"  # the value of the cookie
MAX_BUFFERED = 10_000
MAX_BUFFER_SECONDS = 5.0
RETRY_SECONDS = 0.5
VALIDATION_BATCH = 10
PAUSE_SECONDS = 0.001  # with 0, gevent would not serve other requests meanwhile

_BY_ENDPOINT: dict[str, list[str]] = {}
for _event in DECLARED_EVENTS:
    for _endpoint in _event.endpoints:
        _BY_ENDPOINT.setdefault(_endpoint, []).append(_event.name)


@dataclass(frozen=True)
class AnonymousVisitor:
    """The author of a buffered event whose address and user agent have not been hashed yet. Never stored."""

    address: str
    user_agent: str


@dataclass(frozen=True)
class BufferedEvent:
    author: AnalyticsAccount | AnonymousVisitor
    event: Event
    buffered_at: float = field(default_factory=time.monotonic)


class Recorder:
    """The buffer of events that the application records itself."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics
        self._buffer: deque[BufferedEvent] = deque()
        self._has_events = Signal()
        self._flush_lock = RLock()
        self._is_closing = False

    def put(self, buffered: BufferedEvent) -> None:
        if len(self._buffer) >= MAX_BUFFERED:
            metrics.events_unrecorded.inc()
            return
        self._buffer.append(buffered)
        self._has_events.set()

    def run(self) -> None:
        """Flush the buffer forever, in a greenlet."""
        while True:
            self._has_events.wait()
            self._has_events.clear()
            self.flush()

    def close(self) -> None:
        """Flush without retries."""
        self._is_closing = True
        self.flush()

    def flush(self) -> None:
        """Hand on all buffered events in order. Retries in an outage, until an event has been buffered for too long."""
        with self._flush_lock:
            while self._buffer:
                buffered = self._buffer[0]
                if time.monotonic() - buffered.buffered_at > MAX_BUFFER_SECONDS:
                    self._drop(1)
                elif self._is_done(buffered):
                    self._buffer.popleft()
                elif self._is_closing:
                    self._drop(len(self._buffer))
                else:
                    gevent.sleep(RETRY_SECONDS)

    def _drop(self, count: int) -> None:
        metrics.events_unrecorded.inc(count)
        for _ in range(count):
            self._buffer.popleft()

    def _is_done(self, buffered: BufferedEvent) -> bool:
        """Try to record the event. Returns False if it has to be retried."""
        author = buffered.author
        try:
            if isinstance(author, AnonymousVisitor):
                person: Person = self._analytics.identify_visitor(author.address, author.user_agent)
            else:
                person = author
            if not self._analytics.has_opted_out_since(person, buffered.event.occurred_at):
                self._analytics.accept(person, [buffered.event])
        except Unavailable:
            return False
        except Exception:  # a retry would fail again and hold up the other events
            log.exception("dropped event %s: it cannot be recorded", buffered.event.name)
            metrics.events_unrecorded.inc()
        return True


def init_app(app: Flask, config: Config, analytics: Analytics, accounts: Accounts, lifecycle: Lifecycle) -> None:
    app.extensions["analytics"] = analytics
    app.extensions["recorder"] = recorder = Recorder(analytics)
    app.config["ANALYTICS_COOKIE_NAME"] = "__Host-analytics" if config.is_production else "analytics"
    accounts.before_sign_in.append(copy_opt_out_to_account)
    app.after_request(_record_request)
    lifecycle.add("analytics", background=recorder.run, close=recorder.close)


# Consent. Except for may_record, these functions raise Unavailable if the consent cannot be read or saved.


def opt_out_status() -> OptOutStatus:
    if current_user() is None and not _has_opt_out_cookie():  # no need to identify the visitor
        return OptOutStatus(has_gpc(), GPC if has_gpc() else None, None)
    return _analytics().opt_out_status(current_person(), has_cookie=_has_opt_out_cookie(), has_gpc=has_gpc())


def may_record() -> bool:
    """Whether a page may load the analytics script. False if that is unknown."""
    if has_gpc() or _has_opt_out_cookie():
        return False
    user = current_user()
    try:
        return user is None or _analytics().has_consent(AnalyticsAccount(user.id))
    except Unavailable:
        return False


def opt_out() -> OptOutStatus:
    person = current_person()
    opted_out_at = _analytics().opt_out(person)
    _set_cookie(OPTED_OUT, COOKIE_SECONDS)
    return OptOutStatus(True, USER if isinstance(person, AnalyticsAccount) else SESSION, opted_out_at)


def opt_in() -> OptOutStatus:
    _analytics().opt_in(current_person())
    _set_cookie("", 0)
    return OptOutStatus(has_gpc(), GPC if has_gpc() else None, None)


def erase() -> ErasureResult:
    return _analytics().erase(current_person())


def copy_opt_out_to_account(user_id: int) -> None:
    """Apply the browser's opt-out to the account that signs in with it, before its session starts."""
    if _has_opt_out_cookie():
        _analytics().opt_out(AnalyticsAccount(user_id))


# Events.


def validate(items: list[Any]) -> tuple[list[Event], list[RejectedEvent]]:
    """Validate in small batches with pauses: hostile events take long, and other requests run in between."""
    events: list[Event] = []
    rejected: list[RejectedEvent] = []
    for start in range(0, len(items), VALIDATION_BATCH):
        if start:
            gevent.sleep(PAUSE_SECONDS)
        valid, invalid = _analytics().validate(items[start : start + VALIDATION_BATCH])
        events += valid
        rejected += [replace(one, index=one.index + start) for one in invalid]
    return events, rejected


def accept(events: list[Event]) -> bool:
    """Accept the events of the current person, or return False after an opt-out. Raises Unavailable."""
    person = current_person()
    return _is_recordable() and _analytics().accept(person, events)


def record(name: str, **properties: str | int) -> None:
    """Record a declared event of the current person in the background."""
    if not _is_recordable():
        return
    event = Event(str(uuid.uuid4()), name, BY_NAME[name].category, dict(properties), datetime.now(UTC))
    extension(Recorder, "recorder").put(BufferedEvent(_author(name), event))


def _record_request(response: Response) -> Response:
    names, is_page = _BY_ENDPOINT.get(request.endpoint or "", ()), _is_page(response)
    if (names or is_page) and response.status_code < 400 and is_visit() and not _redirects_to_sign_in(response):
        for name in names:
            record(name)
        if is_page:
            record(PAGE_VIEWED, path=page_path())
    return response


def page_path() -> str:
    """The path of the current page with placeholders for its parameters: `/repositories/<id>`."""
    return re.sub(r"<[^<>]*>", "<id>", str(request.url_rule))


def _redirects_to_sign_in(response: Response) -> bool:
    return response.status_code == 303 and urlsplit(response.location or "").path == url_for("web.login")


def _is_page(response: Response) -> bool:
    return (
        response.status_code == 200
        and response.mimetype == "text/html"
        and request.method == "GET"
        and request.blueprint == "web"
    )


def is_visit() -> bool:
    """Whether a user opened the page, rather than a script refreshing it or a browser prefetching it."""
    if request.method == "HEAD":
        return False
    if request.method != "GET":
        return True
    return request.headers.get("Sec-Fetch-Dest", "document") == "document" and "Sec-Purpose" not in request.headers


def _is_recordable() -> bool:
    """False after an opt-out, and with a session that was not read or has ended: its account may have opted out."""
    if has_gpc() or _has_opt_out_cookie():
        return False
    return g.get("user") is not None or current_app.config["SESSION_COOKIE_NAME"] not in request.cookies


def _author(name: str) -> AnalyticsAccount | AnonymousVisitor:
    """A sign-up belongs to the visitor: there was no account yet when the request was sent."""
    if name == SIGNED_UP or g.get("user") is None:
        return AnonymousVisitor(*_address_and_user_agent())
    return AnalyticsAccount(g.user.id)


def current_person() -> Person:
    user = current_user()
    return AnalyticsAccount(user.id) if user else _analytics().identify_visitor(*_address_and_user_agent())


def _address_and_user_agent() -> tuple[str, str]:
    return request.remote_addr or "", request.user_agent.string


def has_gpc() -> bool:
    """Whether the browser sends Global Privacy Control. Only the value "1" counts, see https://www.w3.org/TR/gpc/."""
    return "1" in [value.strip() for value in request.headers.get("Sec-GPC", "").split(",")]  # the line may be repeated


def _has_opt_out_cookie() -> bool:
    return OPTED_OUT in request.cookies.getlist(current_app.config["ANALYTICS_COOKIE_NAME"])


def _set_cookie(value: str, max_age: int) -> None:
    """The cookie is the same for everybody. It is readable by scripts, so that all open tabs stop recording at once."""
    if bearer_token() is not None:  # a program, whose account remembers the choice
        return
    name, secure = current_app.config["ANALYTICS_COOKIE_NAME"], current_app.config["SESSION_COOKIE_SECURE"]

    @after_this_request
    def set_cookie(response: Response) -> Response:
        response.set_cookie(name, value, max_age=max_age, path="/", samesite="Lax", secure=secure)
        return response


def _analytics() -> Analytics:
    return extension(Analytics, "analytics")
