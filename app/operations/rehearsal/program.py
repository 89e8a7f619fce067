"""The program behind `flask rehearse`, put together: who makes the load, what happens meanwhile, and the verdict."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import gevent
import redis
from flask import Flask

from app.analytics.stream import STREAM
from app.auth import store as accounts_store
from app.auth.limits import MemoryRateLimiter
from app.auth.passwords import Passwords
from app.auth.service import Accounts, Client
from app.auth.store import User
from app.core import config, instance, logs
from app.core.config import Config
from app.core.config_parsers import RateLimit
from app.core.errors import Unavailable
from app.database.engine import Database
from app.notifications.service import Notifications
from app.operations.rehearsal import report, store
from app.operations.rehearsal.events import NAME, Events, OptOuts
from app.operations.rehearsal.listeners import BYSTANDERS_PER_USER, Listeners
from app.operations.rehearsal.load import HttpLoad, Logouts, Requests, Sender, Stalls, Steadily
from app.operations.rehearsal.measurements import Accounting, Measurements, Settings
from app.operations.rehearsal.observers import Account, Crowd, Readiness
from app.operations.rehearsal.people import Person, SignInFailed, people, sign_in_all
from app.operations.rehearsal.plan import Plan
from app.operations.rehearsal.scenario import CALM_SECONDS, Failed, Scenario, wait_for
from app.operations.rehearsal.web import Web
from app.redis.client import connect
from app.sessions.interface import SessionInterface

READINESS_PER_SECOND = 20  # of all instances together
REDIS_SECONDS = 5.0
MAX_BYSTANDERS = 200
ACCOUNTING_SECONDS = 10.0
CLOCKS_DIFFER = timedelta(minutes=5)
RED, INTERRUPTED = 1, 130


def main(create_app: Callable[[Config], Flask]) -> NoReturn:
    plan = Plan.load(sys.argv[1])
    instance.identify("rehearsal")
    settings = config.from_environment_or_exit()
    if not settings.use_redis_sessions:
        config.exit_with_faults(["USE_REDIS_SESSIONS: is not true; only a fleet can be rehearsed"])
    logs.configure(settings.log_format, "ERROR")  # what happens to the fleet is in the report
    logging.getLogger("audit").setLevel(logging.ERROR)
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, _interrupt, gevent.getcurrent())
    try:
        measured = rehearse(plan, settings, create_app(settings))
    except KeyboardInterrupt:
        _tell("interrupted; what was made for the rehearsal is deleted")
        sys.exit(INTERRUPTED)
    lines = report.judge(measured)
    data, text = report.as_data(measured, lines), report.as_text(measured, lines)
    sys.stdout.write((json.dumps(data, indent=2) if plan.as_json else text) + "\n")
    sys.exit(0 if report.is_green(lines) else RED)


def rehearse(plan: Plan, settings: Config, app: Flask) -> Measurements:
    limits = Settings(settings.drain_rate, settings.shutdown_delay, settings.shutdown_timeout)
    measured = Measurements(plan.url, len(plan.instances), limits)
    with ExitStack() as stack:
        web = Web(plan.url)
        stack.callback(web.close)
        told, others = plan.sockets // plan.sockets_per_user, _bystanders(plan, settings) // BYSTANDERS_PER_USER
        try:
            made = stack.enter_context(people(told + others, _registration(settings, app), _removal(app), _tell))
            database: Database = app.extensions["database"]
            database.run(accounts_store.promote, made[0].email)
            users = sign_in_all(web, made)
            _tell(f"{len(users)} users have signed in")
            listeners = Listeners(plan.url, users[:told], plan.sockets_per_user, users[told:], settings.socket_transports)
            stack.callback(listeners.close)
            listeners.connect()
            wait_for(lambda: listeners.is_calm({}), CALM_SECONDS)
            _tell(f"{sum(socket.connected for socket in listeners.sockets)} of {len(listeners.sockets)} sockets are connected")
            with connect(settings, "rehearsal", timeout=REDIS_SECONDS) as redis_client:
                _under_load(plan, measured, stack, Parts(web, users[:told], listeners, app, redis_client))
        except (SignInFailed, Failed, Unavailable) as reason:
            measured.interrupted = str(reason)
    return measured


def _under_load(plan: Plan, measured: Measurements, stack: ExitStack, parts: Parts) -> None:
    notifications: Notifications = parts.app.extensions["notifications_of_commands"]
    database: Database = parts.app.extensions["database"]
    listeners = parts.listeners
    stalls, readiness, logouts = Stalls(), Readiness(parts.web), Logouts(parts.web, parts.users)
    asked = Requests(parts.web)
    http, events = HttpLoad(asked, parts.users), Events(asked, parts.users[::2])
    opt_outs = OptOuts(asked, parts.users[1::2], lambda user_id: database.run(store.of_user, user_id))
    sender = Sender(lambda user_id: notifications.send(user_id, "message", "Rehearsal", {}).seq, parts.users)
    measured.requests, measured.accepted, measured.sockets = asked.done, sender.accepted, listeners.sockets
    measured.events, measured.noes = events.sent, opt_outs.noes
    began_at = datetime.now(UTC)
    loads = [
        Steadily(READINESS_PER_SECOND, readiness.ask),
        Steadily(plan.requests_per_second, http.send),
        Steadily(plan.notifications_per_second, sender.send),
        Steadily(plan.logouts_per_second, logouts.race),
        Steadily(plan.event_batches_per_second, events.send),
        Steadily(plan.opt_outs_per_second, opt_outs.take_turn),
    ]
    for load in loads:
        stack.callback(load.kill)
    stack.callback(gevent.spawn(stalls.run).kill)
    crowd = Crowd(lambda: listeners.is_calm(sender.accepted), listeners.closings, listeners.count, listeners.dismiss_bystanders)
    account = Account(parts.web, parts.users[0].cookie)
    Scenario(plan, measured, readiness, crowd, account, parts.redis_client, stalls.longest, _tell).run()
    for load in loads:
        load.finish()
    wait_for(crowd.is_calm, CALM_SECONDS)
    measured.logouts, measured.revived = logouts.count_revived()
    measured.accounting = _accounting(database, parts, began_at)


def _accounting(database: Database, parts: Parts, began_at: datetime) -> Accounting:
    """When nothing waits any more to be stored, or too long."""

    def waiting() -> int:
        try:
            return int(parts.redis_client.xlen(STREAM))
        except redis.RedisError as error:
            raise Failed(f"Redis does not answer: {type(error).__name__}") from None

    wait_for(lambda: waiting() == 0, CALM_SECONDS)
    rows = database.run_within(ACCOUNTING_SECONDS, store.rows, NAME, began_at - CLOCKS_DIFFER)
    user_ids = [person.id for person in parts.users]
    beyond = database.run_within(ACCOUNTING_SECONDS, store.beyond_fences, user_ids)
    return Accounting(rows, beyond, waiting())


@dataclass(frozen=True)
class Parts:
    web: Web
    users: list[Person]
    listeners: Listeners
    app: Flask
    redis_client: redis.Redis


def _bystanders(plan: Plan, settings: Config) -> int:
    """So many that DRAIN_RATE has each instance close its sockets over more than half a second."""
    enough = int(0.7 * settings.drain_rate * len(plan.instances)) - plan.sockets
    return min(MAX_BYSTANDERS, max(0, enough)) if plan.bystanders is None else plan.bystanders


def _registration(settings: Config, app: Flask) -> Callable[[str, str], User]:
    """Without the limit of registrations, which is one for strangers."""
    unlimited = replace(settings, rate_limit_register=RateLimit(limit=sys.maxsize, seconds=1))
    accounts = Accounts(unlimited, app.extensions["database"], Passwords(), MemoryRateLimiter())
    return lambda email, password: accounts.register(email, password, Client("rehearsal"))


def _removal(app: Flask) -> Callable[[int], None]:
    accounts: Accounts = app.extensions["accounts"]
    sessions = app.session_interface
    assert isinstance(sessions, SessionInterface)

    def remove(user_id: int) -> None:
        accounts.delete_without_password(user_id)
        sessions.end_all(user_id, "account_deleted", keep=None)

    return remove


def _interrupt(main: gevent.Greenlet) -> None:
    gevent.get_hub().loop.run_callback(main.throw, KeyboardInterrupt)


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
