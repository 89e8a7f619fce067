"""Fixtures for an application on a temporary SQLite database, for Redis clients, and a clock that tests set."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import REGISTRY

from app import create_app
from app.analytics import intake
from app.auth import passwords
from app.core import config, instance
from app.core.config import Config
from app.database import engine
from app.database.engine import Database
from app.redis.client import RedisCommands, connect
from app.redis.multiplexed import MultiplexedRedis, share_connection
from app.server.lifecycle import Lifecycle
from harness.processes import PATIENCE_SECONDS
from harness.redis_cluster import RedisCluster
from harness.servers import PostgresServer, ReusableDatabase, embedded_environment, fleet_environment, migrate
from tests.unit.compiled import keep_compiled_rules, keep_compiled_templates

MakeApp = Callable[..., Flask]

UNUSED_DATABASE_URL = "postgresql://nobody@127.0.0.1/unused"


class Clock:
    """Replaces the module `time` in the code under test."""

    def __init__(self, now: float = 1_760_000_000) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    monotonic = time


def set_clock(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Clock:
    """Give the module under test a clock that stands still."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def count_of(metric: str, **labels: str) -> float:
    """Return the value of a counter of this process, 0 if it does not exist."""
    return REGISTRY.get_sample_value(metric, labels) or 0


@pytest.fixture(scope="session", autouse=True)
def keep_compiled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        keep_compiled_rules(monkeypatch)
        keep_compiled_templates(monkeypatch)
        yield


@pytest.fixture(scope="session", autouse=True)
def cheap_hashes() -> Iterator[None]:
    """Hash passwords with little work. The tests of the hashes themselves use the real parameters."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(passwords, "PASSES", 1)
        monkeypatch.setattr(passwords, "MEMORY_KIB", 8)
        yield


@pytest.fixture(scope="session", autouse=True)
def patient_clients() -> Iterator[None]:
    """Let transactions take long: a busy machine is no outage. Tests of outages set a limit of their own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (engine, intake):
            monkeypatch.setattr(module, "SQL_TIMEOUT_SECONDS", PATIENCE_SECONDS)
        monkeypatch.setattr(engine, "_STATEMENT_TIMEOUT_MS", int(PATIENCE_SECONDS * 1000))
        yield


@pytest.fixture(autouse=True)
def named_instance(monkeypatch: pytest.MonkeyPatch) -> str:
    """The instance ID of this process. A test may change it."""
    monkeypatch.setattr(instance, "_current", instance.current())
    return instance.identify("instance-1").instance_id


@pytest.fixture
def embedded(tmp_path: Path) -> dict[str, str]:
    """The environment of an embedded instance with its own empty database."""
    environment = embedded_environment(tmp_path)
    migrate(environment)
    return environment


@pytest.fixture
def make_app(embedded: dict[str, str]) -> Iterator[MakeApp]:
    """Build the whole application; keyword arguments are settings."""
    with ExitStack() as stack:

        def make(**overrides: str) -> Flask:
            app = create_app(config.load({**embedded, **overrides}))
            lifecycle: Lifecycle = app.extensions["lifecycle"]
            stack.callback(lambda: lifecycle.stop(lifecycle.drain(), 1))
            return app

        yield make


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def database(embedded: dict[str, str]) -> Iterator[Database]:
    """An empty SQLite database with the schema."""
    database = Database(embedded["DATABASE_URL"], 5, "test")
    yield database
    database.close()


@pytest.fixture(scope="session")
def reusable_database(postgres_server: PostgresServer) -> Iterator[ReusableDatabase]:
    with ReusableDatabase(postgres_server.create_database()) as database:
        yield database


@pytest.fixture
def database_url(reusable_database: ReusableDatabase) -> Iterator[str]:
    """A PostgreSQL database with the current schema and no rows. The next test uses it too, so its schema must stay."""
    yield reusable_database.url
    reusable_database.empty()


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with the schema, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("database")
        return
    url = request.getfixturevalue("database_url").replace("postgresql:", "postgresql+psycopg2:")
    database = Database(url, 10, "test")
    yield database
    database.close()


@pytest.fixture
def fleet_config(redis_url: str) -> Config:
    """The configuration of an instance on the shared, empty Redis, without a database."""
    return config.load(fleet_environment(redis_url, UNUSED_DATABASE_URL))


@pytest.fixture
def connect_redis(redis_url: str) -> Iterator[Callable[[], redis.Redis]]:
    """Create clients of the shared Redis as instances do."""
    with clients_of(redis_url) as connect_one:
        yield connect_one


@pytest.fixture
def redis_client(connect_redis: Callable[[], redis.Redis]) -> redis.Redis:
    return connect_redis()


@pytest.fixture
def multiplexed(redis_client: redis.Redis) -> Iterator[MultiplexedRedis]:
    multiplexed = MultiplexedRedis(redis_client)
    yield multiplexed
    multiplexed.close()


@pytest.fixture(scope="session")
def three_masters() -> Iterator[RedisCluster]:
    """A Redis Cluster without replicas that no test stops."""
    with RedisCluster(replicas=0) as cluster:
        yield cluster


@contextmanager
def clients_of(redis_url: str, timeout: float = PATIENCE_SECONDS) -> Iterator[Callable[[], redis.Redis]]:
    """Yield a function that creates clients as instances do. They are closed at the end of the block.

    `timeout`: the seconds that each waits for a reply. The default is for a busy machine.
    """
    settings = config.load(fleet_environment(redis_url, UNUSED_DATABASE_URL))
    with ExitStack() as stack:

        def connect_one() -> redis.Redis:
            client = connect(settings, f"test-{secrets.token_hex(4)}", timeout=timeout)
            stack.callback(client.close)
            return client

        yield connect_one


@pytest.fixture(scope="session")
def clients_of_masters(three_masters: RedisCluster) -> Iterator[list[redis.Redis]]:
    with ExitStack() as stack:
        yield [stack.enter_context(node.client()) for node in three_masters.nodes]


@pytest.fixture
def connect_cluster(three_masters: RedisCluster, clients_of_masters: list[redis.Redis]) -> Iterator[Callable[[], redis.Redis]]:
    """Create clients of the shared cluster, which is empty, as instances do."""
    for client in clients_of_masters:
        client.flushall()
    with clients_of(three_masters.url) as connect_one:
        yield connect_one


@pytest.fixture
def cluster_client(connect_cluster: Callable[[], redis.Redis]) -> redis.Redis:
    return connect_cluster()


@pytest.fixture
def cluster_commands(cluster_client: redis.Redis) -> Iterator[RedisCommands]:
    commands = share_connection(cluster_client)
    yield commands
    commands.close()


def with_faults(app: Flask) -> Flask:
    """The application with a view that fails and one that redirects to its own address with a slash."""

    @app.get("/fail")
    @app.get("/api/fail")
    def fail() -> str:
        raise RuntimeError("a fault")

    @app.get("/folder/")
    def folder() -> str:
        return "here"

    return app
