"""RepoRadar. `create_app` is the reading list of the application: what there is, and what knows what."""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from app import config as configuration
from app import errors, instance, openapi, security
from app.api import MAX_BODY_BYTES
from app.auth import commands as auth_commands
from app.auth import views as auth_views
from app.auth.limits import MemoryRateLimiter, RateLimiter, RedisRateLimiter
from app.auth.passwords import Passwords
from app.auth.service import Accounts
from app.config import Config
from app.database import commands as database_commands
from app.database.engine import Database
from app.database.upgrade import schema_complaint
from app.fleet.service import Membership
from app.fleet.store import Registry
from app.health import views as health_views
from app.health.load import Load
from app.health.service import PROBE_TIMEOUT_SECONDS, Probe
from app.lifecycle import Lifecycle
from app.redis_client import connect
from app.sessions.census import KeyCensus
from app.sessions.interface import SessionInterface
from app.sessions.keyring import Keyring
from app.sessions.redis_store import RedisSessionStore
from app.sessions.sql_store import SqlSessionStore
from app.sessions.store import SessionStore
from app.tracing import Tracing
from app.web import views as web_views


def create_app(config: Config | None = None) -> Flask:
    config = config or configuration.from_environment()
    me = instance.current()
    lifecycle = Lifecycle()

    database = Database(config.database_url, config.database_pool_size, me.instance_id)
    lifecycle.add(close=database.close)
    probes = [Probe("database", lambda: database.run_within(PROBE_TIMEOUT_SECONDS, schema_complaint))]

    encryption = Keyring("encryption", config.session_encryption_key)
    signing = Keyring("signing", tuple(secret.encode() for secret in config.session_secret))

    # The one place where a fleet and an embedded instance differ.
    store: SessionStore
    limiter: RateLimiter
    if config.use_redis_sessions:
        redis = connect(config, me.instance_id)
        lifecycle.add(close=redis.close)
        probe_connection = connect(config, me.instance_id, timeout=PROBE_TIMEOUT_SECONDS)
        probes.append(Probe("redis", lambda: None if probe_connection.ping() else "no answer"))
        store = RedisSessionStore(redis, config.session_max_age)
        limiter = RedisRateLimiter(redis, signing)
        membership = Membership(Registry(redis), me, [encryption, signing])
        lifecycle.add(background=membership.run, check=lambda: membership.fault, close=membership.leave)
    else:
        store = SqlSessionStore(database)
        limiter = MemoryRateLimiter()

    accounts = Accounts(config, database, Passwords(), limiter)
    load = Load()

    app = Flask(__name__, static_folder="web/static", template_folder="web/templates")
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        SESSION_COOKIE_NAME="__Host-session" if config.production else "session",
        SESSION_COOKIE_SECURE=config.production,
        REPORADAR=config,
    )
    app.extensions.update(accounts=accounts, database=database, lifecycle=lifecycle, load=load, probes=probes)
    app.session_interface = SessionInterface(app, config, store, encryption, signing)

    errors.init_app(app)
    security.init_app(app, config)
    app.register_blueprint(health_views.blueprint)
    app.register_blueprint(openapi.blueprint)
    app.register_blueprint(auth_views.blueprint)
    app.register_blueprint(web_views.blueprint)
    app.cli.add_command(database_commands.schema)
    app.cli.add_command(auth_commands.users)

    for probe in probes:
        lifecycle.add(background=probe.run, check=probe.obstacle)
    lifecycle.add(background=load.run)
    lifecycle.add(background=KeyCensus(store, [encryption, signing]).run)

    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    app.wsgi_app = Tracing(app.wsgi_app)  # type: ignore[method-assign]
    return app
