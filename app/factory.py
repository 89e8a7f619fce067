"""The application factory. Read `build` to see of which parts the application consists, and what each of them needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask

from app.adapters import Adapters, choose, connect_redis, create_worker_monitor, redis_probes
from app.analytics import commands as analytics_commands
from app.analytics import sockets as analytics_sockets
from app.analytics import tracking
from app.analytics import views as analytics_views
from app.analytics.catalogue import FUNNELS, PAGE_VIEWED
from app.analytics.exports import sockets as exports_sockets
from app.analytics.exports import views as exports_views
from app.analytics.exports.service import Exports
from app.analytics.exports.store import leases as export_leases
from app.analytics.reports import sockets as reports_sockets
from app.analytics.reports import views as reports_views
from app.analytics.reports.service import AnalyticsReports
from app.analytics.service import Analytics
from app.auth import audit, guards
from app.auth import commands as auth_commands
from app.auth import views as auth_views
from app.auth.passwords import Passwords
from app.auth.resets import PasswordResets
from app.auth.service import Accounts
from app.auth.tokens import ApiTokens
from app.core import errors, instance
from app.core.callbacks import do_nothing
from app.core.config import Config
from app.core.descriptors import shortage
from app.core.instance import Instance
from app.core.keyring import Keyring
from app.core.mail import create_mailer
from app.database import commands as database_commands
from app.database.engine import READ_ONLY_WARNING, Database, is_read_only
from app.database.upgrade import find_schema_error
from app.fleet import views as fleet_views
from app.fleet.balance import Balancer
from app.fleet.vitals import Vitals
from app.fleet.worker_monitor import WorkerMonitor
from app.health import views as health_views
from app.health.load import Load
from app.health.service import PROBE_TIMEOUT_SECONDS, HealthCheck, Probe, WarningCheck, latencies
from app.http import compression, openapi, ranges, security
from app.http.api import MAX_BODY_BYTES, IdConverter
from app.http.hosts import TrustedHosts
from app.http.proxies import TrustedProxies
from app.http.repeated import EqualHeaders
from app.http.security import SecurityHeaders
from app.http.shortage import ReservedConnections
from app.http.tracing import Tracing
from app.job_wiring import create_worker_pool
from app.jobs.broker import JobQueues
from app.jobs.monitor import JobMonitor
from app.notifications import commands as notifications_commands
from app.notifications import sockets as notifications_sockets
from app.notifications import views as notifications_views
from app.notifications.channels import Channels
from app.notifications.service import Notifications
from app.operations.doctor import commands as doctor_commands
from app.operations.rehearsal import commands as rehearsal_commands
from app.realtime import commands as realtime_commands
from app.realtime import sockets as realtime_sockets
from app.realtime.connections import Connections
from app.repositories import commands as repositories_commands
from app.repositories import sockets as repositories_sockets
from app.repositories import views as repositories_views
from app.repositories.service import Repositories
from app.repositories.sharing import Sharing
from app.repositories.store import leases as analysis_leases
from app.server.lifecycle import Lifecycle
from app.sessions.interface import SessionInterface
from app.sessions.key_usage import KeyUsage
from app.web import pages, shared, static_files
from app.web import views as web_views


@dataclass(frozen=True)
class Infrastructure:
    """The parts that depend on the environment rather than on a feature."""

    instance: Instance
    lifecycle: Lifecycle
    database: Database
    encryption: Keyring
    signing: Keyring
    load: Load
    probes: list[Probe]
    job_monitor: JobMonitor
    worker_monitor: WorkerMonitor | None  # None in embedded mode
    vitals: Vitals
    adapters: Adapters
    trace_requests: Callable[[Flask], None]


@dataclass(frozen=True)
class Services:
    """One service for each feature."""

    accounts: Accounts
    tokens: ApiTokens
    password_resets: PasswordResets
    analytics: Analytics
    exports: Exports
    analytics_reports: AnalyticsReports
    notifications: Notifications
    channels: Channels
    job_queues: JobQueues
    repositories: Repositories
    sharing: Sharing


def build(config: Config) -> Flask:
    infrastructure = create_infrastructure(config)
    services = create_services(config, infrastructure)
    app = create_flask(config, infrastructure, services)
    register_views(app, config)
    register_commands(app)
    register_sockets(app, config, infrastructure, services)
    add_background_tasks(app, config, infrastructure, services)
    add_middleware(app, config, infrastructure.load)
    infrastructure.trace_requests(app)
    return app


def create_infrastructure(config: Config) -> Infrastructure:
    me = instance.current()
    lifecycle = Lifecycle()
    database = Database(config.database_url, config.database_pool_size, me.instance_id, pooler=config.database_pooler)
    lifecycle.add("database", close=database.close)
    trace_requests: Callable[[Flask], None] = do_nothing
    if config.otel_exporter_otlp_endpoint:
        from app.telemetry.setup import trace_instance  # only if traces are on: it costs memory

        trace_requests = trace_instance(config.otel_exporter_otlp_endpoint, database, lifecycle)
    encryption = Keyring("encryption", config.session_encryption_key)
    signing = Keyring("signing", tuple(secret.encode() for secret in config.session_secret))
    redis = connect_redis(config, me.instance_id, lifecycle)
    load = Load()
    probes = [
        Probe(
            "database",
            lambda: database.run_within(PROBE_TIMEOUT_SECONDS, find_schema_error),
            find_warning=lambda: READ_ONLY_WARNING if database.run_within(PROBE_TIMEOUT_SECONDS, is_read_only) else None,
        ),
        *redis_probes(redis),
    ]
    job_monitor = JobMonitor(database, {"analysis": analysis_leases, "export": export_leases})
    vitals = Vitals(
        me,
        lifecycle,
        config.fingerprint,
        measure=lambda: load.describe() | latencies(probes) | {"connections": lifecycle.count_connections()},
    )
    adapters = choose(config, me, database, redis, [encryption, signing], lifecycle, vitals)
    return Infrastructure(
        instance=me,
        lifecycle=lifecycle,
        database=database,
        encryption=encryption,
        signing=signing,
        load=load,
        probes=probes,
        job_monitor=job_monitor,
        worker_monitor=create_worker_monitor(redis, job_monitor),
        vitals=vitals,
        adapters=adapters,
        trace_requests=trace_requests,
    )


def create_services(config: Config, parts: Infrastructure) -> Services:
    database, publish = parts.database, parts.adapters.message_queue.publish
    analytics = Analytics(config, database, parts.adapters.intake, publish)
    notifications = Notifications(database, publish)
    queues = JobQueues(parts.adapters.broker)
    exports = Exports(database, queues.exports.send)
    repositories = Repositories(config, database, notifications, queues.analyses.send)
    passwords = Passwords()
    accounts = Accounts(
        config,
        database,
        passwords,
        parts.adapters.limiter,
        before_deletion=analytics.erase_account,
        # In the order of locks: see app/database/locks.py.
        on_deletion=[service.erase_account for service in (notifications, repositories, exports, analytics)],
    )
    return Services(
        accounts=accounts,
        tokens=ApiTokens(database, parts.adapters.limiter),
        password_resets=PasswordResets(config, database, passwords, parts.adapters.limiter, create_mailer(config)),
        analytics=analytics,
        exports=exports,
        analytics_reports=AnalyticsReports(database, PAGE_VIEWED, FUNNELS),
        notifications=notifications,
        channels=Channels(config, database, parts.encryption),
        job_queues=queues,
        repositories=repositories,
        sharing=Sharing(database, audit.log_event),
    )


class SynchronousFlask(Flask):
    """Flask asks of each function of each request whether it is a coroutine, which takes 5 % of a request. Here none is."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_flask(config: Config, parts: Infrastructure, services: Services) -> Flask:
    app = SynchronousFlask(__package__, static_folder=None, template_folder="web/templates")
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        SESSION_COOKIE_NAME="__Host-session" if config.is_production else "reporadar_session",
        SESSION_COOKIE_SECURE=config.is_production,
        REPORADAR=config,
    )
    app.extensions.update(
        accounts=services.accounts,
        tokens=services.tokens,
        password_resets=services.password_resets,
        database=parts.database,
        exports=services.exports,
        fleet=parts.adapters.fleet,
        analytics_reports=services.analytics_reports,
        lifecycle=parts.lifecycle,
        load=parts.load,
        notifications=services.notifications,
        channels=services.channels,
        notifications_of_commands=Notifications(parts.database, parts.adapters.publish_from_command),
        health_checks=list_health_checks(parts),
        repositories=services.repositories,
        sharing=services.sharing,
        worker_monitor=parts.worker_monitor,
    )
    app.url_map.converters["id"] = IdConverter
    app.session_interface = SessionInterface(
        app, config, parts.adapters.sessions, parts.encryption, parts.signing, parts.adapters.refresh_keys
    )
    return app


def list_health_checks(parts: Infrastructure) -> list[HealthCheck]:
    checks: list[HealthCheck] = [*parts.probes, WarningCheck("open_files", shortage.find_warning)]
    if monitor := parts.worker_monitor:
        checks.append(WarningCheck("workers", lambda: monitor.warning))
    return checks


def register_views(app: Flask, config: Config) -> None:
    errors.init_app(app, pages.error_page_context)
    guards.init_app(app)
    security.init_app(app, config)
    ranges.init_app(app)
    compression.init_app(app)
    static_files.init_app(app)
    app.register_blueprint(health_views.blueprint)
    app.register_blueprint(openapi.blueprint)
    app.register_blueprint(analytics_views.blueprint)
    app.register_blueprint(auth_views.blueprint)
    app.register_blueprint(exports_views.blueprint)
    app.register_blueprint(fleet_views.blueprint)
    app.register_blueprint(reports_views.blueprint)
    app.register_blueprint(notifications_views.blueprint)
    app.register_blueprint(repositories_views.blueprint)
    app.register_blueprint(web_views.blueprint)
    app.register_blueprint(shared.blueprint)


def register_commands(app: Flask) -> None:
    app.cli.add_command(database_commands.schema)
    app.cli.add_command(auth_commands.users)
    app.cli.add_command(analytics_commands.events)
    app.cli.add_command(notifications_commands.notify)
    app.cli.add_command(realtime_commands.emit)
    app.cli.add_command(repositories_commands.analyse)
    app.cli.add_command(doctor_commands.doctor)
    app.cli.add_command(rehearsal_commands.rehearse)


def register_sockets(app: Flask, config: Config, parts: Infrastructure, services: Services) -> None:
    queue = parts.adapters.message_queue
    totals = parts.adapters.fleet_totals

    def mean_sockets() -> float | None:
        return now.mean_sockets if (now := totals()) else None

    socketio = realtime_sockets.init_app(
        app, config, parts.instance, queue, services.notifications, parts.lifecycle, mean_sockets
    )
    connections: Connections = app.extensions["connections"]
    balancer = Balancer(connections, totals, config.drain_rate)
    if config.rebalance:
        parts.lifecycle.add("balance", background=balancer.run)
    parts.vitals.count_sockets = lambda: len(connections)
    parts.vitals.count_excess_sockets = lambda: balancer.excess
    analytics_sockets.init_app(queue, connections)
    exports_sockets.init_app(queue, connections)
    notifications_sockets.init_app(socketio, queue, connections, services.notifications)
    repositories_sockets.init_app(socketio, queue, connections, services.repositories)
    reports_sockets.init_app(socketio, queue, connections, services.accounts)


def add_background_tasks(app: Flask, config: Config, parts: Infrastructure, services: Services) -> None:
    lifecycle = parts.lifecycle
    for probe in parts.probes:
        lifecycle.add(f"probe of {probe.name}", background=probe.run, check=probe.not_ready_reason)
    tracking.init_app(app, config, services.analytics, services.accounts, lifecycle)
    if parts.adapters.runs_jobs:
        pool = create_worker_pool(
            config, parts.database, services.notifications, services.job_queues, parts.encryption, size=1, is_embedded=True
        )
        lifecycle.add("jobs", background=pool.start, on_stop_begin=pool.stop)
    lifecycle.add("job monitor", background=parts.job_monitor.run)
    if parts.worker_monitor:
        lifecycle.add("worker monitor", background=parts.worker_monitor.run)
    lifecycle.add("mails", close=services.password_resets.close)
    lifecycle.add("load", background=parts.load.run)
    lifecycle.add("vitals", background=parts.vitals.run)
    lifecycle.add("key usage", background=KeyUsage(parts.adapters.sessions, [parts.encryption, parts.signing]).run)


def add_middleware(app: Flask, config: Config, load: Load) -> None:
    """Wrap the WSGI application. The last wrapper sees a request first."""
    if config.trusted_hosts:
        app.wsgi_app = TrustedHosts(app.wsgi_app, config.trusted_hosts)  # type: ignore[method-assign]
    app.wsgi_app = EqualHeaders(SecurityHeaders(app.wsgi_app, config))  # type: ignore[method-assign]
    if config.trusted_proxies:
        app.wsgi_app = TrustedProxies(app.wsgi_app, config.trusted_proxies)  # type: ignore[method-assign]
    app.wsgi_app = ReservedConnections(app.wsgi_app)  # type: ignore[method-assign]
    app.wsgi_app = Tracing(app.wsgi_app, load.response_times.observe)  # type: ignore[method-assign]
