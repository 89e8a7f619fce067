"""The table in docs/degradation.md, executed: each state is created for real, and each cell is checked in it."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import psycopg2
import pytest
import redis

from app.core import config
from app.core.errors import Unavailable
from app.core.keyring import Keyring
from app.database import cooperative
from app.database.engine import Database
from app.notifications.service import Notifications
from app.realtime.publisher import RedisPublisher
from app.redis.client import connect
from harness.degradation import DELAYED, READ_ONLY, UNAVAILABLE, WORKS, Cell, Row, parse
from harness.fleet import NO_RATE_LIMITS, start_together
from harness.redis_cluster import ClusterNode, RedisCluster
from harness.repositories import Commit, build
from harness.scale import FULL, full_only
from harness.sentinels import ReplicatedRedis
from harness.servers import ROOT, Instance, PostgresServer, RedisServer, Worker, fleet_environment, wait_until
from harness.sockets import Balancer, Listener, WebSocket
from harness.users import PASSWORD, Reachable, User

QUICK_SECONDS = 2.0  # for every response
EFFECT_SECONDS = 10.0  # until the effect of an accepted request is seen where the table says "works"
NO_EFFECT_SECONDS = 1.0  # for which it is not seen where the table says "delayed"
RECOVERY_SECONDS = 5.0
SQL_SECONDS = 0.5  # for a query of the test
DELAYED_SECONDS = 45.0  # a job that was not picked up is re-enqueued within half a minute
MAX_WRONG_PASSWORDS = 5  # of an account in a minute
HEALTH_SECONDS = 15.0  # a frozen dependency fails after 5 s


class Outcome(NamedTuple):
    """The observed behaviour of a feature, and a condition that holds after the state because something was accepted."""

    cell: Cell
    promise: Callable[[], bool] = lambda: True


def timed(user: User, method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request. Fail if the response is late, is an error other than 503, or is a 503 without Retry-After."""
    started = time.monotonic()
    answer = user.request(method, path, **options)
    seconds = time.monotonic() - started
    assert seconds < QUICK_SECONDS, f"{method} {path} took {seconds:.1f} s"
    assert answer.status_code in range(500) or answer.status_code == 503, f"{method} {path}: {answer.status_code}"
    assert answer.status_code != 503 or int(answer.headers["Retry-After"]) > 0
    return answer


def word_of(answers: list[httpx.Response]) -> str:
    """Return WORKS if all succeeded and UNAVAILABLE if all are 503; otherwise the statuses, which are no word of the table."""
    statuses = {answer.status_code for answer in answers}
    if all(200 <= status < 300 for status in statuses):
        return WORKS
    return UNAVAILABLE if statuses == {503} else " ".join(f"{one.request.url.path}={one.status_code}" for one in answers)


def happens(condition: Callable[[], bool], seconds: float) -> bool:
    with suppress(AssertionError):
        return wait_until(condition, timeout=seconds)
    return False


def effect(expected: Cell, has_happened: Callable[[], bool]) -> Outcome:
    """Return whether the effect of an accepted request is seen in the state, or only afterwards."""
    seconds = EFFECT_SECONDS if expected.word == WORKS else NO_EFFECT_SECONDS
    return Outcome(Cell(WORKS if happens(has_happened, seconds) else DELAYED), has_happened)


class Site:
    """Instances and a worker on their stores, and users who are prepared while everything works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        with self._stack:
            self._start()
            self.ada = User(self.entrance).register()
            build(self.folder / "small", [Commit(1_700_000_000, files={b"README.md": b"# Small\n"})])
            added = self.ada.post("/api/repositories", url=str(self.folder / "small")).json()
            self.repository_id = added["repository"]["id"]
            wait_until(lambda: self.analysis_has_succeeded(added["analysis"]["id"]), 30, "the first analysis")
            self.ada_id = self.ada.get("/api/auth/me").json()["user"]["id"]
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._start_stores()
        self._start_processes()
        self.notifications = self._stack.enter_context(notifications_of_a_command(self.environment))

    def _start_stores(self) -> None:
        redis_url = self._start_redis()
        self.postgres = self._stack.enter_context(self._create_postgres())
        limits = NO_RATE_LIMITS | {"RATE_LIMIT_LOGIN": f"{MAX_WRONG_PASSWORDS}/min"}
        settings = limits | {"REPOSITORY_ROOTS": str(self.folder)}
        self.environment = fleet_environment(redis_url, self.postgres.create_database(), **settings)

    def _start_redis(self) -> str:
        """Start Redis and return its URL."""
        self.redis = self._stack.enter_context(RedisServer())
        return self.redis.url

    def is_affected(self, user: User) -> bool:
        """Return whether the state affects this user. The row shows the users whom it affects."""
        return True

    def _create_postgres(self) -> PostgresServer:
        return PostgresServer(max_connections=40)

    def _start_processes(self) -> None:
        instance = Instance(self.environment | {"INSTANCE_ID": "instance-1"})
        self.worker = Worker(self.environment)
        start_together(self._stack, [instance, self.worker])
        self.entrance: Instance | Balancer = instance
        self.pages_entrance: Reachable = instance  # of the pages that are open before the state begins

    @property
    def database_url(self) -> str:
        return self.environment["DATABASE_URL"]

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Execute a statement; return no rows if the database does not answer."""
        with suppress(psycopg2.OperationalError), cooperative.deadline(SQL_SECONDS), ExitStack() as stack:
            connection = stack.enter_context(closing(psycopg2.connect(self.database_url)))
            cursor = stack.enter_context(connection.cursor())
            cursor.execute(f"SET statement_timeout = {SQL_SECONDS * 1000:.0f}; {statement}", parameters)
            return cursor.fetchall()
        return []

    def analysis_has_succeeded(self, analysis_id: int) -> bool:
        return bool(self.rows("SELECT 1 FROM analyses WHERE id = %s AND status = 'succeeded'", analysis_id))

    def events_of(self, email: str) -> int:
        return len(
            self.rows(
                "SELECT 1 FROM analytics_events WHERE person IN (SELECT pseudonym FROM analytics_people WHERE user_id ="
                " (SELECT id FROM users WHERE email = %s)) AND name = 'clicked'",
                email,
            )
        )


@contextmanager
def notifications_of_a_command(environment: dict[str, str]) -> Iterator[Notifications]:
    """Provide what `flask notify` sends notifications with."""
    settings = config.load(environment)
    signing = Keyring("signing", tuple(secret.encode() for secret in settings.session_secret))
    client = connect(settings, "command")
    with closing(Database(settings.database_url, 1, "command")) as database, closing(client):
        yield Notifications(database, RedisPublisher(client, signing).publish)


class People:
    """Users for one state. Whatever they did before holds in it."""

    def __init__(self, site: Site) -> None:
        users = (User(site.entrance).register() for _ in range(100))
        self.ben = next(user for user in users if site.is_affected(user))  # opts out in the state
        self.cleo = User(site.entrance).register()  # opted out before
        assert self.cleo.request("PUT", "/api/analytics/opt-out").status_code == 200
        self.cleo.client.cookies.delete("analytics")  # so that only the account's opt-out counts
        self.dan = User(site.entrance).register()  # signed out before, and kept the cookie
        self.eve = User(site.entrance)  # deleted a token before, and never had a session
        created = self.dan.post("/api/auth/tokens", name="one", scope="write").json()
        self.dead_token = {"Authorization": f"Bearer {created['token']}"}
        assert self.dan.request("DELETE", f"/api/auth/tokens/{created['id']}").status_code == 204
        cookie = self.dan.cookie
        assert self.dan.post("/api/auth/logout").status_code == 204
        self.dan.client.cookies.set("reporadar_session", cookie)


class Situation(NamedTuple):
    site: Site
    people: People
    pages: Listener  # Ada's open pages


# The features. Each check returns what it saw; `expected` only decides how long it waits.


def check_pages(now: Situation, _: Cell) -> Outcome:
    visitor = User(now.site.entrance)
    return Outcome(Cell(word_of([timed(visitor, "GET", path) for path in ("/", "/login", "/register", "/about/scores")])))


def check_sign_in(now: Situation, _: Cell) -> Outcome:
    word = word_of([sign_in_again(now.site.ada)])
    assert passwords_are_limited(now)
    return Outcome(Cell(word))


def sign_in_again(user: User) -> httpx.Response:
    """Sign in from another browser."""
    return timed(User(*user.instances), "POST", "/api/auth/login", json={"email": user.email, "password": PASSWORD})


def passwords_are_limited(now: Situation) -> bool:
    """Return whether only so many wrong passwords of an account are answered as RATE_LIMIT_LOGIN allows."""
    wrong = {"email": now.people.dan.email, "password": "wrong horse battery"}
    for _ in range(MAX_WRONG_PASSWORDS + 1):
        status = timed(User(now.site.entrance), "POST", "/api/auth/login", json=wrong).status_code
        if status != 401:
            return status in (429, 503)
    return False


def check_signed_in_reads(now: Situation, _: Cell) -> Outcome:
    paths = ("/api/auth/me", "/api/repositories", "/api/notifications", "/", f"/repositories/{now.site.repository_id}")
    return Outcome(Cell(word_of([timed(now.site.ada, "GET", path) for path in paths])))


def check_changes(now: Situation, _: Cell) -> Outcome:
    tag, path = secrets.token_hex(4), f"/api/repositories/{now.site.repository_id}"
    word = word_of([timed(now.site.ada, "PUT", f"{path}/tags", json={"tags": [tag]})])

    def is_kept() -> bool:
        return bool(now.site.ada.get(path).json()["tags"] == [tag])

    return Outcome(Cell(word), is_kept if word == WORKS else lambda: True)


def check_sockets(now: Situation, _: Cell) -> Outcome:
    started = time.monotonic()
    with WebSocket(now.site.entrance, now.site.ada) as socket:
        assert time.monotonic() - started < QUICK_SECONDS
        if socket.status == 101:
            socket.socket.settimeout(QUICK_SECONDS)
            socket.join()
            return Outcome(Cell(WORKS))
        assert socket.status != 503 or "retry-after:" in socket.head.lower()
        return Outcome(Cell(str(socket.status)))


def check_notifications(now: Situation, expected: Cell) -> Outcome:
    try:
        sent = now.site.notifications.send(now.site.ada_id, "message", "In this state", {})
    except Unavailable:
        return Outcome(Cell(UNAVAILABLE))
    return effect(expected, lambda: sent.seq in now.pages.seqs)


def check_analyses(now: Situation, expected: Cell) -> Outcome:
    path = f"/api/repositories/{now.site.repository_id}"
    requested = timed(now.site.ada, "POST", f"{path}/analyses")
    if requested.status_code == 202:
        analysis_id = requested.json()["analysis"]["id"]
        return effect(expected, lambda: now.site.analysis_has_succeeded(analysis_id))
    return Outcome(Cell(_unchanged(requested, timed(now.site.ada, "GET", path))))


def check_events(now: Situation, expected: Cell) -> Outcome:
    before = now.site.events_of(now.site.ada.email)
    answer = send_event(now.site.ada)
    if answer.status_code != 202:
        return Outcome(Cell(word_of([answer])))
    assert answer.json()["accepted"] == 1
    return effect(expected, lambda: now.site.events_of(now.site.ada.email) > before)


def check_opt_out(now: Situation, _: Cell) -> Outcome:
    ben = now.people.ben
    answer = timed(ben, "PUT", "/api/analytics/opt-out")
    if answer.status_code != 200:
        return Outcome(Cell(_unchanged(answer, timed(ben, "GET", "/api/analytics/opt-out"))))
    ben.client.cookies.delete("analytics")
    assert is_refused(send_event(ben)), "an opt-out applies from its response on"
    return Outcome(Cell(WORKS), lambda: is_refused(send_event(ben)))


def check_health(now: Situation, expected: Cell) -> Outcome:
    def seen() -> Cell:
        answer = User(now.site.entrance).get("/health")
        return Cell(WORKS if answer.status_code == 200 else str(answer.status_code), answer.json()["status"])

    happens(lambda: seen() == expected, HEALTH_SECONDS)
    return Outcome(seen())


def _unchanged(change: httpx.Response, read: httpx.Response) -> str:
    """Return READ_ONLY if a change was answered with 503 and a read succeeded."""
    word = word_of([change, read])
    return READ_ONLY if (change.status_code, read.status_code) == (503, 200) else word


def send_event(user: User) -> httpx.Response:
    event = {"id": secrets.token_hex(8), "name": "clicked", "category": "test", "properties": {}}
    return timed(user, "POST", "/api/analytics/events", json={"events": [event]})


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code == 503 or (answer.json()["accepted"], answer.json()["opted_out"]) == (0, True)


FEATURES: dict[str, Callable[[Situation, Cell], Outcome]] = {
    "pages": check_pages,
    "sign-in": check_sign_in,
    "signed-in reads": check_signed_in_reads,
    "changes": check_changes,
    "sockets": check_sockets,
    "notifications": check_notifications,
    "analyses": check_analyses,
    "events": check_events,
    "opt-out": check_opt_out,
    "health": check_health,
}


def assert_nothing_fails_open(now: Situation) -> None:
    """Nobody gets more than they may, whatever does not answer."""
    site, people = now.site, now.people
    me = "/api/auth/me"
    assert timed(User(site.entrance), "GET", me).status_code in (401, 503)
    assert timed(people.dan, "GET", me).status_code in (401, 503), "a session that was ended"
    assert timed(people.eve, "GET", "/api/repositories", headers=people.dead_token).status_code in (401, 503), "a deleted token"
    assert timed(site.ada, "GET", "/api/fleet").status_code in (403, 503), "only for administrators"
    assert is_refused(send_event(people.cleo)), "an opt-out from before"


# The states.


@contextmanager
def redis_down(site: Site) -> Iterator[None]:
    site.redis.kill()
    try:
        yield
    finally:
        site.redis.start()


@contextmanager
def redis_frozen(site: Site) -> Iterator[None]:
    site.redis.freeze()
    try:
        yield
    finally:
        site.redis.resume()


@contextmanager
def redis_read_only(site: Site) -> Iterator[None]:
    """Make Redis the replica of a primary that is gone: a primary that was demoted."""
    with site.redis.client() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def redis_out_of_memory(site: Site) -> Iterator[None]:
    with site.redis.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@contextmanager
def postgresql_down(site: Site) -> Iterator[None]:
    site.postgres.kill()
    try:
        yield
    finally:
        site.postgres.start()


@contextmanager
def postgresql_frozen(site: Site) -> Iterator[None]:
    site.postgres.freeze()
    try:
        yield
    finally:
        site.postgres.resume()


@contextmanager
def postgresql_read_only(site: Site) -> Iterator[None]:
    with site.postgres.read_only(site.database_url):
        yield


@contextmanager
def postgresql_locked(site: Site) -> Iterator[None]:
    with site.postgres.locked_table(site.database_url, "users"):
        yield


@contextmanager
def postgresql_out_of_connections(site: Site) -> Iterator[None]:
    """Take all connections, those of the processes included."""
    with ExitStack() as stack:
        administrator = stack.enter_context(closing(psycopg2.connect(site.postgres.url)))
        administrator.autocommit = True
        cursor = stack.enter_context(administrator.cursor())

        def all_are_taken() -> bool:
            with suppress(psycopg2.OperationalError):
                while True:
                    stack.enter_context(closing(psycopg2.connect(site.postgres.url, application_name="taken")))
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name NOT IN ('taken', '')")
            return cursor.rowcount == 0

        wait_until(all_are_taken, what="all connections to be taken")
        yield


@contextmanager
def no_worker(site: Site) -> Iterator[None]:
    site.worker.terminate()
    try:
        yield
    finally:
        site.worker.start()


class SmallDisk(RedisServer):
    """A Redis server whose folder is a small file system of its own."""

    def _create_folder(self) -> Path:
        folder = super()._create_folder()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
        return folder

    def close(self) -> None:
        if self.status() is None:
            self.kill()
        subprocess.run(["umount", self.folder], check=True)
        super().close()

    def fill_disk(self) -> None:
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def refuses_writes(self) -> bool:
        with self.client() as client, suppress(redis.ResponseError):
            client.set("filler", bytes(1000))
            return False
        return True


class SiteOnSmallDisk(Site):
    redis: SmallDisk

    def _start_redis(self) -> str:
        self.redis = self._stack.enter_context(SmallDisk())
        return self.redis.url


@contextmanager
def redis_disk_full(site: SiteOnSmallDisk) -> Iterator[None]:
    site.redis.fill_disk()
    wait_until(site.redis.refuses_writes, what="Redis to refuse writes")
    try:
        yield
    finally:
        (site.redis.folder / "filler").unlink()


class DistantInstance(Instance):
    """An instance on a machine of its own: in a network namespace, which one link connects with this one."""

    def __init__(self, environment: dict[str, str], link: Link) -> None:
        super().__init__(environment | {"HOST": link.there, "TRUSTED_HOSTS": f"127.0.0.1,{link.there}"})
        self._link = link
        self.address = link.there

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def _command(self) -> list[str]:
        return ["ip", "netns", "exec", self._link.name, *super()._command()]


class Link:
    """A pair of network interfaces, one of them in a namespace. While it is down, packets are lost without an error."""

    def __init__(self) -> None:
        number = secrets.randbelow(1 << 14)
        self.name = f"radar{number}"
        self.here, self.there = (f"10.213.{number >> 6}.{(number & 63) * 4 + end}" for end in (1, 2))

    def __enter__(self) -> Self:
        self._ip("netns", "add", self.name)
        self._ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        self._ip("address", "add", f"{self.here}/30", "dev", self.name)
        self._ip("link", "set", self.name, "up")
        self._ip("-netns", self.name, "address", "add", f"{self.there}/30", "dev", "eth0")
        for interface in ("lo", "eth0"):
            self._ip("-netns", self.name, "link", "set", interface, "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._ip("link", "delete", self.name)
        self._ip("netns", "delete", self.name)

    @contextmanager
    def down(self) -> Iterator[None]:
        self._ip("-netns", self.name, "link", "set", "eth0", "down")
        try:
            yield
        finally:
            self._ip("-netns", self.name, "link", "set", "eth0", "up")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)


class SiteWithDistantInstance(Site):
    """Two instances behind nginx, one of them on a machine of its own."""

    def _start_stores(self) -> None:
        self.link = self._stack.enter_context(Link())
        super()._start_stores()
        with self.redis.client() as client:
            client.config_set("protected-mode", "no")
            client.config_set("bind", f"127.0.0.1 {self.link.here}")

    def _create_postgres(self) -> PostgresServer:
        return PostgresServer(max_connections=40, address=self.link.here)

    def _start_processes(self) -> None:
        distant = {name: self.environment[name].replace("127.0.0.1", self.link.here) for name in ("REDIS_URL", "DATABASE_URL")}
        near = Instance(self.environment | {"INSTANCE_ID": "instance-1", "TRUSTED_PROXIES": "1"})
        self.distant = DistantInstance(
            self.environment | distant | {"INSTANCE_ID": "instance-2", "TRUSTED_PROXIES": "1"}, self.link
        )
        self.worker = Worker(self.environment)
        start_together(self._stack, [near, self.distant, self.worker])
        self.entrance = self._stack.enter_context(Balancer([near, self.distant]))
        self.pages_entrance = self.distant


@contextmanager
def instance_unreachable(site: SiteWithDistantInstance) -> Iterator[None]:
    with site.link.down():
        yield


class SiteOnCluster(Site):
    """A Redis Cluster without replicas, so that no other server takes over a shard."""

    def _start_redis(self) -> str:
        self.cluster = self._stack.enter_context(RedisCluster(masters=3, replicas=0))
        return self.cluster.url

    def shard_of(self, user: User) -> ClusterNode:
        """Return the server that has the sessions of a user."""
        return self.cluster.master_of(f"{{user:{user.get('/api/auth/me').json()['user']['id']}}}")

    def is_affected(self, user: User) -> bool:
        return self.shard_of(user) is self.shard_of(self.ada)


@contextmanager
def shard_lost(site: SiteOnCluster) -> Iterator[None]:
    """Kill the server with Ada's sessions. Users on other shards must notice nothing."""
    users = (User(site.entrance).register() for _ in range(100))
    other = next(user for user in users if not site.is_affected(user))
    lost = site.shard_of(site.ada)
    lost.kill()
    try:
        assert [timed(other, "GET", path).status_code for path in ("/api/auth/me", "/api/repositories", "/")] == [200] * 3
        yield
        assert timed(other, "POST", "/api/notifications/read", json={"up_to": 0}).status_code == 204
    finally:
        lost.start()
        site.cluster.wait_until_whole()


class SiteWithSentinels(Site):
    def _start_redis(self) -> str:
        self.replicated = self._stack.enter_context(ReplicatedRedis())
        return self.replicated.url


@contextmanager
def failing_over(site: SiteWithSentinels) -> Iterator[None]:
    """Kill the primary, and two of three sentinels, so that the failover does not end before everything was checked."""
    primary, (_, *others) = site.replicated.primary, site.replicated.sentinels
    for sentinel in others:
        sentinel.kill()
    primary.kill()
    try:
        yield
    finally:
        for sentinel in others:
            sentinel.start()
        site.replicated.wait_for_failover(primary)


class State(NamedTuple):
    create: Callable[[Any], AbstractContextManager[None]]
    site: type[Site] = Site


STATES = {
    "Redis: down": State(redis_down),
    "Redis: frozen": State(redis_frozen),
    "Redis: read-only": State(redis_read_only),
    "Redis: out of memory": State(redis_out_of_memory),
    "Redis: disk full": State(redis_disk_full, SiteOnSmallDisk),
    "Redis Cluster: one shard lost": State(shard_lost, SiteOnCluster),
    "Redis Sentinel: failing over": State(failing_over, SiteWithSentinels),
    "PostgreSQL: down": State(postgresql_down),
    "PostgreSQL: frozen": State(postgresql_frozen),
    "PostgreSQL: read-only": State(postgresql_read_only),
    "PostgreSQL: locked": State(postgresql_locked),
    "PostgreSQL: out of connections": State(postgresql_out_of_connections),
    "no worker": State(no_worker),
    "one instance unreachable": State(instance_unreachable, SiteWithDistantInstance),
}
# The cells that `make test` checks: ten that fail in different ways.
QUICK = {
    "Redis: down": ("sign-in", "sockets", "events"),
    "PostgreSQL: down": ("pages", "signed-in reads", "notifications", "opt-out"),
    "PostgreSQL: read-only": ("changes", "analyses", "health"),
}
TABLE = parse((ROOT / "docs/degradation.md").read_text(), STATES, FEATURES)
ON_ONE_SITE = [state for state in STATES if STATES[state].site is Site and (FULL or state in QUICK)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("roots")) as site:
        yield site


@pytest.mark.parametrize("state", ON_ONE_SITE)
def test_cells(site: Site, state: str) -> None:
    row = TABLE[state]
    execute(site, state, row if FULL else {feature: row[feature] for feature in QUICK[state]})


@full_only
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems and create network namespaces")
@pytest.mark.parametrize("state", [state for state in STATES if STATES[state].site is not Site])
def test_cells_on_a_special_site(state: str, tmp_path: Path) -> None:
    with STATES[state].site(tmp_path) as site:
        execute(site, state, TABLE[state])


def execute(site: Site, state: str, row: Row) -> None:
    """Create a state, compare each feature with its cell, and require that everything works again afterwards."""
    people = People(site)
    with Listener(site.ada, transports=["websocket"]).connect(site.pages_entrance) as pages:
        now = Situation(site, people, pages)
        with STATES[state].create(site):
            outcomes = {feature: FEATURES[feature](now, expected) for feature, expected in row.items()}
            assert_nothing_fails_open(now)
        ended_at = time.monotonic()
        assert {feature: str(outcome.cell) for feature, outcome in outcomes.items()} == {
            feature: str(expected) for feature, expected in row.items()
        }
        wait_until_recovered(now, ended_at)
        for feature, outcome in outcomes.items():
            wait_until(outcome.promise, DELAYED_SECONDS, f"what was accepted of: {feature}")
    assert site.events_of(people.cleo.email) == 0


def wait_until_recovered(now: Situation, ended_at: float) -> None:
    site = now.site
    probes: dict[str, Callable[[], bool]] = {
        "signed-in reads": lambda: site.ada.get("/api/auth/me").status_code == 200,
        "sign-in": lambda: (
            User(site.entrance).post("/api/auth/login", email=site.ada.email, password=PASSWORD).status_code == 200
        ),
        "changes": lambda: site.ada.post("/api/notifications/read", up_to=0).status_code == 204,
        "sockets": lambda: check_sockets(now, Cell(WORKS)).cell.word == WORKS,
        "events": lambda: send_event(site.ada).status_code == 202,
        "health": lambda: User(site.entrance).get("/health").status_code == 200,
    }
    for name, works in probes.items():
        wait_until(works, max(0.1, ended_at + RECOVERY_SECONDS - time.monotonic()), f"{name} to work again")
