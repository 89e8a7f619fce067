"""RepoRadar. `create_app` is the reading list of the application: what there is, and what knows what."""

from __future__ import annotations

from flask import Flask

from app import job_wiring as jobs_crew
from app.adapters import choose
from app.analytics import sockets as analytics_sockets
from app.analytics import tracking
from app.analytics import views as analytics_views
from app.analytics.catalogue import FUNNELS, PAGE_VIEWED
from app.analytics.exports import views as exports_views
from app.analytics.exports.service import Exports
from app.analytics.reports import sockets as insights_sockets
from app.analytics.reports import views as insights_views
from app.analytics.reports.service import Insights
from app.analytics.service import Analytics
from app.auth import commands as auth_commands
from app.auth import views as auth_views
from app.auth.passwords import Passwords
from app.auth.service import Accounts
from app.core import config as configuration
from app.core import errors, instance
from app.core.config import Config
from app.core.keyring import Keyring
from app.database import commands as database_commands
from app.database.engine import Database
from app.database.upgrade import schema_complaint
from app.fleet import views as fleet_views
from app.fleet.vitals import Vitals
from app.health import views as health_views
from app.health.load import Load
from app.health.service import PROBE_TIMEOUT_SECONDS, Probe, latencies
from app.http import openapi, security
from app.http.api import MAX_BODY_BYTES, IdConverter
from app.http.proxies import TrustedProxies
from app.http.security import SecurityHeaders
from app.http.tracing import Tracing
from app.jobs.broker import Queues
from app.notifications import commands as notifications_commands
from app.notifications import sockets as notifications_sockets
from app.notifications import views as notifications_views
from app.notifications.service import Notifications
from app.operations.doctor import commands as doctor_commands
from app.operations.rehearsal import commands as rehearsal_commands
from app.realtime import sockets as realtime_sockets
from app.repositories import sockets as repositories_sockets
from app.repositories import views as repositories_views
from app.repositories.service import Repositories
from app.server.lifecycle import Lifecycle
from app.sessions.census import KeyCensus
from app.sessions.interface import SessionInterface
from app.web import views as web_views


def create_app(config: Config | None = None) -> Flask:
    config = config or configuration.from_environment()
    me = instance.current()
    lifecycle = Lifecycle()

    database = Database(config.database_url, config.database_pool_size, me.instance_id)
    lifecycle.add("database", close=database.close)
    encryption = Keyring("encryption", config.session_encryption_key)
    signing = Keyring("signing", tuple(secret.encode() for secret in config.session_secret))

    load = Load()
    probes = [Probe("database", lambda: database.run_within(PROBE_TIMEOUT_SECONDS, schema_complaint))]
    vitals = Vitals(
        me,
        lifecycle,
        config.fingerprint,
        measure=lambda: load.describe() | latencies(probes) | {"connections": lifecycle.count_connections()},
        count_sockets=lambda: len(app.extensions["connections"]),
    )
    adapters = choose(config, me, database, [encryption, signing], lifecycle, vitals)
    probes += adapters.probes
    analytics = Analytics(config, database, adapters.intake, adapters.queue.publish)
    accounts = Accounts(config, database, Passwords(), adapters.limiter, forget=analytics.forget)
    notifications = Notifications(database, adapters.queue.publish)
    jobs = Queues(adapters.broker)
    repositories = Repositories(config, database, notifications, jobs.analyses.send)
    exports = Exports(database, jobs.exports.send)

    app = Flask(__name__, static_folder="web/static", template_folder="web/templates")
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        SESSION_COOKIE_NAME="__Host-session" if config.production else "session",
        SESSION_COOKIE_SECURE=config.production,
        REPORADAR=config,
    )
    app.extensions.update(
        accounts=accounts,
        before_sign_in=[],
        database=database,
        exports=exports,
        fleet=adapters.fleet,
        insights=Insights(database, PAGE_VIEWED, FUNNELS),
        lifecycle=lifecycle,
        load=load,
        notifications=notifications,
        notifications_of_commands=Notifications(database, adapters.publish_from_outside),
        probes=probes,
        repositories=repositories,
    )
    app.url_map.converters["id"] = IdConverter
    app.session_interface = SessionInterface(app, config, adapters.sessions, encryption, signing, adapters.refresh_keys)

    errors.init_app(app)
    security.init_app(app, config)
    app.register_blueprint(health_views.blueprint)
    app.register_blueprint(openapi.blueprint)
    app.register_blueprint(analytics_views.blueprint)
    app.register_blueprint(auth_views.blueprint)
    app.register_blueprint(exports_views.blueprint)
    app.register_blueprint(fleet_views.blueprint)
    app.register_blueprint(insights_views.blueprint)
    app.register_blueprint(notifications_views.blueprint)
    app.register_blueprint(repositories_views.blueprint)
    app.register_blueprint(web_views.blueprint)
    app.cli.add_command(database_commands.schema)
    app.cli.add_command(auth_commands.users)
    app.cli.add_command(notifications_commands.notify)
    app.cli.add_command(doctor_commands.doctor)
    app.cli.add_command(rehearsal_commands.rehearse)

    socketio = realtime_sockets.init_app(app, config, me, adapters.queue, notifications, lifecycle)
    connections = app.extensions["connections"]
    analytics_sockets.init_app(adapters.queue, connections)
    notifications_sockets.init_app(socketio, notifications)
    repositories_sockets.init_app(socketio, repositories)
    insights_sockets.init_app(socketio, adapters.queue, connections, accounts)

    for probe in probes:
        lifecycle.add(f"probe of {probe.name}", background=probe.run, check=probe.obstacle)
    tracking.init_app(app, config, analytics, lifecycle)
    if adapters.does_jobs:  # one at a time
        crew = jobs_crew.assemble(config, database, notifications, jobs, size=1, alone=True)
        lifecycle.add("jobs", background=crew.start, let_go=crew.stop)
    lifecycle.add("load", background=load.run)
    lifecycle.add("vitals", background=vitals.run)
    lifecycle.add("census", background=KeyCensus(adapters.sessions, [encryption, signing]).run)

    app.wsgi_app = SecurityHeaders(app.wsgi_app, config)  # type: ignore[method-assign]
    if config.trusted_proxies:
        app.wsgi_app = TrustedProxies(app.wsgi_app, config.trusted_proxies)  # type: ignore[method-assign]
    app.wsgi_app = Tracing(app.wsgi_app, load.response_times.observe)  # type: ignore[method-assign]
    return app
