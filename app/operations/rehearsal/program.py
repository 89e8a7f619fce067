"""The process behind `flask rehearse`: generates the load, runs the scenario and prints the report card."""

import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import gevent
import redis
from flask import Flask
from gevent.pool import Pool

from app.analytics.event_stream import count_waiting
from app.auth import store as accounts_store
from app.auth.limits import MemoryRateLimiter
from app.auth.passwords import Passwords
from app.auth.service import Accounts, Client
from app.core import config, instance, logs
from app.core.config import Config
from app.core.config_parsers import RateLimit
from app.core.errors import Unavailable
from app.database.engine import Database
from app.notifications.service import Notifications
from app.operations.rehearsal import report, store
from app.operations.rehearsal.checks import Status
from app.operations.rehearsal.clients import BYSTANDERS_PER_USER, ClientPool
from app.operations.rehearsal.events import EVENT_NAME, EventLoad, OptOutLoad
from app.operations.rehearsal.http_client import BalancerClient
from app.operations.rehearsal.load import ConstantRateLoad, HttpLoad, LogoutLoad, NotificationLoad, RecordingClient, kill_all
from app.operations.rehearsal.machine import MachineMonitor
from app.operations.rehearsal.measurements import DrainSettings, Measurements, StoredEvents
from app.operations.rehearsal.observers import ReadinessMonitor, StopHistory
from app.operations.rehearsal.plan import Plan
from app.operations.rehearsal.scenario import SETTLE_SECONDS, RehearsalFailed, Scenario, wait_for
from app.operations.rehearsal.users import RehearsalUser, SignInFailed, rehearsal_users, sign_in
from app.redis.client import connect
from app.sessions.interface import SessionInterface

READINESS_POLLS_PER_SECOND = 20  # of all instances together
REDIS_TIMEOUT_SECONDS = 5.0
CONCURRENT_SIGN_INS = 4  # password hashing is CPU-bound, and the login rate limit also counts attempts in progress
MAX_BYSTANDERS = 200
COUNT_TIMEOUT_SECONDS = 10.0
LAST_SETTLE_SECONDS = 120.0  # what has not arrived by then counts as lost; long, because a busy machine loses nothing
MAX_CLOCK_SKEW = timedelta(minutes=5)
EXIT_STATUS = {Status.GREEN: 0, Status.RED: 1, Status.NOT_JUDGED: 3}
INTERRUPTED = 130


@dataclass(frozen=True)
class _Context:
    client: BalancerClient
    users: list[RehearsalUser]
    clients: ClientPool
    app: Flask
    redis_client: redis.Redis
    machine: MachineMonitor


def main(create_app: Callable[[Config], Flask]) -> NoReturn:
    plan = Plan.load(sys.argv[1])
    instance.identify("rehearsal")
    settings = config.from_environment_or_exit()
    if not settings.use_redis_sessions:
        config.exit_with_faults(["USE_REDIS_SESSIONS: is not true; only a fleet can be rehearsed"])
    _configure_logs(settings.log_format)
    interrupt = _interruption(gevent.getcurrent())
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, interrupt)
    try:
        measured = rehearse(plan, settings, create_app(settings))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    results = report.check(measured)
    data, text = report.as_data(measured, results), report.as_text(measured, results)
    sys.stdout.write((json.dumps(data, indent=2) if plan.as_json else text) + "\n")
    sys.exit(EXIT_STATUS[report.verdict(results)])


def rehearse(plan: Plan, settings: Config, app: Flask) -> Measurements:
    limits = DrainSettings(settings.drain_rate, settings.shutdown_delay, settings.shutdown_timeout, settings.rebalance)
    measured = Measurements(plan.url, len(plan.instances), limits)
    started = time.monotonic()
    with ExitStack() as stack:
        machine = stack.enter_context(MachineMonitor())
        client = BalancerClient(plan.url)
        stack.callback(client.close)
        receivers, bystanders = plan.sockets // plan.sockets_per_user, _bystanders(plan, settings) // BYSTANDERS_PER_USER
        try:
            created = rehearsal_users(receivers + bystanders, _registration(settings, app), _deletion(app), _tell)
            signed_out = stack.enter_context(created)
            database: Database = app.extensions["database"]
            database.run(accounts_store.promote, signed_out[0].email)
            sign_ins = Pool(CONCURRENT_SIGN_INS)
            stack.callback(sign_ins.kill)
            users = sign_ins.map(lambda user: sign_in(client, user), signed_out)
            _tell(f"{len(users)} users have signed in")
            active, idle = users[:receivers], users[receivers:]
            clients = ClientPool(plan.url, active, plan.sockets_per_user, idle, settings.socket_transports)
            stack.callback(clients.close)
            clients.connect()
            wait_for(clients.is_settled, SETTLE_SECONDS)
            _tell(f"{sum(record.connected for record in clients.records)} of {len(clients.records)} sockets are connected")
            with connect(settings, "rehearsal", timeout=REDIS_TIMEOUT_SECONDS) as redis_client:
                _run_under_load(plan, measured, stack, _Context(client, active, clients, app, redis_client, machine))
        except (SignInFailed, RehearsalFailed, Unavailable) as reason:
            measured.interrupted = str(reason)
            measured.load = machine.load(started, time.monotonic())
    return measured


def _run_under_load(plan: Plan, measured: Measurements, stack: ExitStack, context: _Context) -> None:
    service: Notifications = context.app.extensions["notifications_of_commands"]
    database: Database = context.app.extensions["database"]
    clients, client, users = context.clients, context.client, context.users
    readiness, logouts, requests = ReadinessMonitor(client), LogoutLoad(client, users), RecordingClient(client)
    http, events = HttpLoad(requests, users), EventLoad(requests, users[::2])
    opt_outs = OptOutLoad(requests, users[1::2], lambda user_id: database.run(store.of_user, user_id))
    notifications = NotificationLoad(lambda user_id: service.send(user_id, "message", "Rehearsal", {}).seq, users)
    clients.accepted = measured.accepted = notifications.accepted
    measured.requests, measured.sockets = requests.sent, clients.records
    measured.events, measured.opt_outs = events.sent, opt_outs.opt_outs
    started_at = datetime.now(UTC)
    loads = [
        ConstantRateLoad(READINESS_POLLS_PER_SECOND, readiness.poll),
        ConstantRateLoad(plan.requests_per_second, http.send),
        ConstantRateLoad(plan.notifications_per_second, notifications.send),
        ConstantRateLoad(plan.logouts_per_second, logouts.race),
        ConstantRateLoad(plan.event_batches_per_second, events.send),
        ConstantRateLoad(plan.opt_outs_per_second, opt_outs.take_turn),
    ]
    stack.callback(kill_all, loads)
    history = StopHistory(client, users[0].cookie)
    Scenario(plan, measured, readiness, clients, history, context.redis_client, context.machine.load, _tell).run()
    for load in loads:
        load.finish()
    wait_for(clients.is_settled, LAST_SETTLE_SECONDS)
    measured.logouts, measured.revived = logouts.count_revived()
    measured.stored_events = _count_stored_events(database, context, started_at)


def _count_stored_events(database: Database, context: _Context, started_at: datetime) -> StoredEvents:
    """Count the events once the stream is empty, or after a timeout."""

    def waiting() -> int:
        try:
            return count_waiting(context.redis_client)
        except redis.RedisError as error:
            raise RehearsalFailed(f"Redis is not available: {type(error).__name__}") from None

    wait_for(lambda: waiting() == 0, LAST_SETTLE_SECONDS)
    rows = database.run_within(COUNT_TIMEOUT_SECONDS, store.row_counts, EVENT_NAME, started_at - MAX_CLOCK_SKEW)
    user_ids = [user.id for user in context.users]
    beyond = database.run_within(COUNT_TIMEOUT_SECONDS, store.beyond_fences, user_ids)
    return StoredEvents(rows, beyond, waiting())


def _bystanders(plan: Plan, settings: Config) -> int:
    """Return the number of bystanders with which DRAIN_RATE closes each instance's sockets over more than half a second."""
    enough = int(0.7 * settings.drain_rate * len(plan.instances)) - plan.sockets
    return min(MAX_BYSTANDERS, max(0, enough)) if plan.bystanders is None else plan.bystanders


def _registration(settings: Config, app: Flask) -> Callable[[str, str], int]:
    """Return a function that registers a user without the rate limit for registrations, and returns the user ID."""
    unlimited = replace(settings, rate_limit_register=RateLimit(limit=sys.maxsize, seconds=1))
    accounts = Accounts(unlimited, app.extensions["database"], Passwords(), MemoryRateLimiter())
    return lambda email, password: accounts.register(email, password, Client("rehearsal")).id


def _deletion(app: Flask) -> Callable[[int], None]:
    accounts: Accounts = app.extensions["accounts"]
    sessions = app.session_interface
    assert isinstance(sessions, SessionInterface)

    def delete(user_id: int) -> None:
        accounts.delete_without_password(user_id)
        sessions.end_all(user_id, "account_deleted", keep=None)

    return delete


def _configure_logs(log_format: str) -> None:
    """Log errors of the rehearsal itself. Its report describes what happens to the fleet, and counts lost connections."""
    logs.configure(log_format, "ERROR")
    logging.getLogger("audit").setLevel(logging.ERROR)
    logging.getLogger("engineio.client").setLevel(logging.CRITICAL)


def _interruption(main: gevent.Greenlet) -> Callable[[], None]:
    """Return the signal handler. Only the first signal interrupts, because a second one would interrupt the deletion of users."""
    is_interrupted = False

    def interrupt() -> None:
        nonlocal is_interrupted
        if not is_interrupted:
            is_interrupted = True
            _tell("interrupted: deleting the rehearsal's users and their data")
            gevent.get_hub().loop.run_callback(main.throw, KeyboardInterrupt)

    return interrupt


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
