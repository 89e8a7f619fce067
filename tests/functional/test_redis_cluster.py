"""A whole fleet on a Redis Cluster of six servers, and what its users notice when a master is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from app.analytics.event_stream import count_waiting
from app.core import config
from app.redis.client import SOCKET_TIMEOUT_SECONDS, PooledRedis, connect
from app.redis.cluster import ClusterClient, slot_of_key
from app.sessions.redis_store import RedisSessionStore
from app.sessions.store import Owner, record_key
from harness.event_senders import Sender, running, session_of, stored
from harness.fleet import Fleet
from harness.lateness import measured_lateness
from harness.redis_cluster import RedisCluster
from harness.scale import FULL, count
from harness.servers import PostgresServer, flask, fleet_environment, wait_until
from harness.sockets import NO_FAULTS, Listener, delivery_faults
from harness.users import User
from tests.functional import test_rotation
from tests.unit.conftest import UNUSED_DATABASE_URL

LIMIT_SECONDS = 2.0  # for an answer while a master is lost, and for service after the takeover
PER_SECOND = count(20, 40)  # notifications


@pytest.fixture(scope="module")
def fleet(
    redis_cluster: RedisCluster, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    settings = {"REPOSITORY_ROOTS": str(tmp_path_factory.mktemp("roots"))}
    with Fleet(postgres_server, redis_url=redis_cluster.url, size=3, workers=1, settings=settings) as fleet:
        yield fleet
        for server in (*fleet.instances, *fleet.workers):
            sys.stdout.write(server.log())  # which pytest shows where a test fails
            assert "Traceback" not in server.log()


@pytest.fixture
def client(redis_cluster: RedisCluster, fleet: Fleet) -> Iterator[ClusterClient]:
    with closing(connect(config.load(fleet.environment), "test", timeout=5)) as client:
        assert isinstance(client, ClusterClient)
        yield client


def repository(folder: str, name: str) -> str:
    path = Path(folder, name)
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for arguments in (["init", "-q", str(path)], ["-C", str(path), *identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *arguments], check=True)
    return str(path)


def slot_of_user(user: User) -> int:
    """Return the slot of the sessions of a signed-in user."""
    return slot_of_key(f"{{user:{user.get('/api/auth/me').json()['user']['id']}}}")


def warnings(fleet: Fleet) -> set[str]:
    """Return the warnings of all health checks about Redis."""
    checks = [User(instance).get("/health").json()["checks"]["redis"] for instance in fleet.instances]
    assert all(check["status"] in ("pass", "warn") for check in checks)
    return {check["output"] for check in checks if "output" in check}


def test_every_feature_works_across_instances(redis_cluster: RedisCluster, fleet: Fleet, client: ClusterClient) -> None:
    users = [User(*fleet.instances).register() for _ in range(4)]
    assert all(user.is_signed_in() for user in users for _ in fleet.instances)
    again = User(*fleet.instances)
    again.email = users[0].email
    assert again.log_in().status_code == 200
    assert len(users[0].get("/api/auth/sessions").json()["sessions"]) == 2
    assert users[0].request("DELETE", "/api/auth/sessions").status_code == 204
    assert not any(again.is_signed_in() for _ in fleet.instances)

    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(users[0]).connect(instance)) for instance in fleet.instances]
        flask(fleet.environment, "notify", users[0].email, "hello", "--count", "3")
        for listener in listeners:
            listener.wait_for("notification", 3)
        answer = users[0].post("/api/repositories", url=repository(fleet.environment["REPOSITORY_ROOTS"], "one"))
        assert answer.status_code == 202, answer.text
        for listener in listeners:
            assert listener.wait_for("notification", 4)["type"] == "analysis.succeeded"
            assert delivery_faults(listener.seqs, 4) == NO_FAULTS

    assert users[0].request("PUT", "/api/analytics/opt-out").status_code == 200
    senders = [Sender(session_of(user), fleet.instances, pause=0.1) for user in users]
    with running(senders):
        wait_until(lambda: all(len(sender.accepted) >= 50 for sender in senders[1:]), what="accepted events")
    assert senders[0].refused
    assert not senders[0].accepted
    wait_until(lambda: count_waiting(client) == 0, what="all events to be stored")
    accepted = set().union(*(sender.accepted for sender in senders))
    assert accepted <= set(stored(fleet.database_url)) <= accepted.union(*(sender.unknown for sender in senders))
    assert errors(redis_cluster)["CROSSSLOT"] == 0


def errors(cluster: RedisCluster) -> Counter[str]:
    """Return how many error replies of each kind all servers together have sent."""
    counts: Counter[str] = Counter()
    for node in cluster.nodes:
        for name, values in node.call("INFO", "errorstats").items():
            counts[name.removeprefix("errorstat_")] += values["count"]
    return counts


class Visits:
    """Records the answers that users get while each of them calls one instance after the other."""

    def __init__(self) -> None:
        self.statuses: dict[User, Counter[int]] = defaultdict(Counter)
        self.slowest: dict[User, float] = defaultdict(float)
        self.served_at: dict[User, float] = {}
        self._over = threading.Event()

    @contextmanager
    def of(self, users: list[User]) -> Iterator[None]:
        with ThreadPoolExecutor(len(users)) as executor:
            visits = [executor.submit(self._visit, user) for user in users]
            try:
                yield
            finally:
                self._over.set()
            for visit in visits:
                visit.result()

    def _visit(self, user: User) -> None:
        while not self._over.wait(0.2):
            began = time.monotonic()
            answer = user.get("/api/auth/me")
            self.slowest[user] = max(self.slowest[user], time.monotonic() - began)
            self.statuses[user][answer.status_code] += 1
            if answer.status_code == 200:
                self.served_at[user] = time.monotonic()
            elif answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(("fault", "number"), [("kill", 0), ("kill", 1), ("kill", 2), ("freeze", 0)][: count(1, 4)])
def test_lost_master_is_noticed_only_by_its_users(
    redis_cluster: RedisCluster, fleet: Fleet, client: ClusterClient, fault: str, number: int
) -> None:
    lost = redis_cluster.masters()[number]
    affected: list[User] = []
    others: list[User] = []
    while min(len(affected), len(others)) < count(1, 3):
        user = User(*fleet.instances).register()
        (affected if redis_cluster.master_of(slot_of_user(user)) is lost else others).append(user)
    users, slot = [*affected, *others], slot_of_user(affected[0])
    senders = [Sender(session_of(user), fleet.instances, pause=0.1) for user in (affected[0], others[0])]
    visits = Visits()
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(affected[0]).connect(instance)) for instance in fleet.instances]
        executor = stack.enter_context(ThreadPoolExecutor())
        due = 7 * PER_SECOND
        options = ["hello", "--count", str(due), "--rate", str(PER_SECOND)]
        notifier = executor.submit(flask, fleet.environment, "notify", affected[0].email, *options)
        wait_until(lambda: all(listener.seqs for listener in listeners), what="the first notifications")
        with visits.of(users), running(senders), measured_lateness() as lateness:
            wait_until(lambda: all(sender.accepted for sender in senders), what="accepted events")
            wait_until(lambda: visits.served_at.keys() == set(users), what="first answers")
            stack.enter_context(redis_cluster.without(lost, fault))
            lost_at = time.monotonic()
            wait_until(lambda: warnings(fleet) == {"1 of 3 masters do not answer"}, what="a warning of the health check")
            url = repository(fleet.environment["REPOSITORY_ROOTS"], f"{fault}-{number}")
            analysis = others[0].post("/api/repositories", url=url).json()["analysis"]["id"]
            redis_cluster.wait_for_takeover(slot)
            taken_over_at = time.monotonic()
            wait_until(
                lambda: all(visits.served_at[user] > taken_over_at for user in affected), what="service after the takeover"
            )
            served_at = max(visits.served_at[user] for user in affected)
        notifier.result()
        wait_until(lambda: all(listener.seqs[-1:] == [due] for listener in listeners), what="the last notification")
        assert [delivery_faults(listener.seqs, due) for listener in listeners] == [NO_FAULTS] * len(listeners)

    if not lateness.excuses(SOCKET_TIMEOUT_SECONDS):
        assert {user: set(visits.statuses[user]) for user in others} == {user: {200} for user in others}
    assert all(set(visits.statuses[user]) == {200, 503} for user in affected)
    assert max(visits.slowest.values()) < LIMIT_SECONDS + lateness.slack
    wait_until(lambda: warnings(fleet) == set(), what="the health check to pass")
    assert all(user.is_signed_in() for user in users)
    status = f"/api/analyses/{analysis}"
    wait_until(lambda: others[0].get(status).json()["status"] == "succeeded", what="the analysis that was requested meanwhile")
    wait_until(lambda: count_waiting(client) == 0, what="all events to be stored")
    accepted = set().union(*(sender.accepted for sender in senders))
    found = set(stored(fleet.database_url))
    sys.stdout.write(
        f"{fault} of master {number}: a replica took over after {taken_over_at - lost_at:.1f} s; its users were served "
        f"{served_at - taken_over_at:.1f} s later; {len(accepted - found)} of {len(accepted)} accepted events were lost\n"
    )


@pytest.mark.skipif(not FULL, reason="the same code as on one server, which test_rotation runs")
def test_rolling_restart_rotates_both_secrets(database_url: str) -> None:
    with RedisCluster() as cluster:
        test_rotation.test_rolling_restart_rotates_both_secrets_without_signing_anyone_out(cluster.url, database_url)


def test_sessions_are_spread_over_the_masters() -> None:
    number = count(1_000, 100_000)
    with (
        RedisCluster(replicas=0) as cluster,
        closing(connect(config.load(fleet_environment(cluster.url, UNUSED_DATABASE_URL)), "test", timeout=5)) as client,
    ):
        assert isinstance(client, ClusterClient)
        store = RedisSessionStore(client, PooledRedis(client), 3600)

        def create(first: int) -> None:
            for user in range(first, first + number // 20):
                for owner in (Owner(user, 1), None):
                    assert store.create(record_key(store.new_id(owner)), {"user": b"1"}, 3600, owner, None)

        with ThreadPoolExecutor(4) as executor:
            for creation in [executor.submit(create, first) for first in range(1, number // 2, number // 20)]:
                creation.result()
        records = [sum(1 for _ in master.scan_iter("session:*", count=1000)) for master in client.masters()]
    assert sum(records) == number
    assert max(records) <= 0.4 * number
