"""The primary of a Redis with three sentinels fails under load. The outage is short, and only what was not replicated is lost."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg2
import pytest
import redis

from app.core import config
from app.operations.doctor import certificates
from app.redis.client import connect, sentinels_of
from harness.event_senders import Sender, session_of, stored
from harness.fleet import NO_RATE_LIMITS, start_together
from harness.machine import Machine
from harness.scale import FULL, count
from harness.sentinels import SERVICE, Passwords, Replicated, ReplicatedRedis
from harness.servers import Instance, PostgresServer, Worker, flask, fleet_environment, promote, wait_until
from harness.sockets import NO_FAULTS, Listener, delivery_faults
from harness.users import User
from tests.functional.test_doctor import examine

APPLICATION = "tests.faults.held_requests:app"  # with a route that changes the session
QUICK_SECONDS = 2.0
RECOVERY_SECONDS = 2.0  # after the sentinels' own failover
UNREPLICATED_SECONDS = 1.0  # before the failure: what happened earlier has reached the replicas
UNTIL_FAILURE_SECONDS = 1.5
VISITORS, PAUSE_SECONDS = count(4, 12), 0.15
NOTIFICATIONS, PER_SECOND = count(100, 600), count(15, 50)
EXPORT = {"from": "2026-01-01", "to": "2026-01-02", "format": "csv"}


class SentinelFleet:
    """Instances and a worker whose Redis is behind sentinels."""

    def __init__(self, postgres: PostgresServer, stack: ExitStack) -> None:
        self.redis = stack.enter_context(ReplicatedRedis(Passwords("serverpass", "sentinelpass")))
        self.environment = fleet_environment(
            self.redis.url, postgres.create_database(), REDIS_SENTINEL_PASSWORD="sentinelpass", **NO_RATE_LIMITS
        )
        names = [f"instance-{number + 1}" for number in range(count(1, 3))]
        self.instances = [Instance({**self.environment, "INSTANCE_ID": name}, application=APPLICATION) for name in names]
        self.worker = Worker({**self.environment, "INSTANCE_ID": "worker"})
        start_together(stack, [*self.instances, self.worker])

    @property
    def database_url(self) -> str:
        return self.environment["DATABASE_URL"]


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer) -> Iterator[SentinelFleet]:
    with ExitStack() as stack:
        yield SentinelFleet(postgres_server, stack)


@dataclass
class Answer:
    started: float  # seconds since the epoch
    seconds: float
    status: int

    @property
    def ended(self) -> float:
        return self.started + self.seconds


@dataclass
class Visitor:
    """A signed-in user who reads pages and changes the session without a pause."""

    user: User
    answers: list[Answer] = field(default_factory=list)
    attempted: int = 0  # the last value that was written to the session, or may have been
    acknowledged: list[tuple[float, int]] = field(default_factory=list)  # when each value was confirmed

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(PAUSE_SECONDS):
            self._request("GET", "/api/auth/me")
            self.attempted += 1
            if self._request("POST", "/held/set/counter/-", content=str(self.attempted)) == 204:
                self.acknowledged.append((time.time(), self.attempted))

    def _request(self, method: str, path: str, **options: Any) -> int:
        started = time.time()
        status = self.user.request(method, path, **options).status_code
        self.answers.append(Answer(started, time.time() - started, status))
        return status

    def confirmed_before(self, moment: float) -> int:
        return max((value for at, value in self.acknowledged if at < moment), default=0)

    def is_intact(self, failed_at: float) -> bool:
        """Return whether the user is signed in, and whether the session has what was replicated or something newer."""
        fields = self.user.get("/fields").json()
        return "user_id" in fields and self.confirmed_before(failed_at) <= int(fields.get("counter", 0)) <= self.attempted


@dataclass
class Newcomer:
    """Users who register one after the other."""

    instances: list[Instance]
    registered: list[tuple[float, User]] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.2):
            user = User(*self.instances)
            answer = user.post("/api/auth/register", email=user.email, password="correct horse battery")
            assert answer.status_code in (201, 503), answer.text
            if answer.status_code == 201:
                self.registered.append((time.time(), user))


@dataclass
class Exporter:
    """An administrator who orders exports, each of which is a job."""

    user: User
    accepted: list[int] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(1):
            answer = self.user.post("/api/analytics/exports", **EXPORT)
            assert answer.status_code in (202, 503), answer.text
            if answer.status_code == 202:
                self.accepted.append(answer.json()["job"]["id"])


class Load:
    """Everything that users do with a fleet at the same time, until the end of the block."""

    def __init__(self, fleet: SentinelFleet) -> None:
        self.fleet = fleet
        instances = fleet.instances
        self.visitors = [Visitor(User(*instances).register()) for _ in range(VISITORS)]
        self.newcomer = Newcomer(instances)
        administrator = User(*instances).register()
        promote(fleet.environment, administrator.email)
        self.exporter = Exporter(administrator)
        self.sender = Sender(session_of(User(*instances).register()), instances, count=5, pause=PAUSE_SECONDS)
        self.reader = User(*instances).register()
        self._stop = threading.Event()
        self._stack = ExitStack()

    def __enter__(self) -> Load:
        executor = self._stack.enter_context(ThreadPoolExecutor(VISITORS + 4))
        self.listeners = [self._stack.enter_context(Listener(self.reader)).connect(instance) for instance in self.fleet.instances]
        options = ["hello", "--count", str(NOTIFICATIONS), "--rate", str(PER_SECOND)]
        self.notifying = executor.submit(flask, self.fleet.environment, "notify", self.reader.email, *options)
        runs = [visitor.run for visitor in self.visitors]
        self._clients: list[Future[None]] = [
            executor.submit(run, self._stop) for run in [*runs, self.newcomer.run, self.exporter.run, self.sender.run]
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stack.close()

    def stop(self) -> None:
        """Let the clients end. Sockets stay open."""
        self._stop.set()
        for client in self._clients:
            client.result()

    @property
    def answers(self) -> list[Answer]:
        return [answer for visitor in self.visitors for answer in list(visitor.answers)]

    def is_served(self, since: float) -> bool:
        """Return whether each visitor has been served after this time, with nothing but successes in the last second."""
        recent = [answer for answer in self.answers if answer.started > time.time() - 1]
        served = sum(any(answer.started > since for answer in visitor.answers) for visitor in self.visitors)
        return served == len(self.visitors) and all(answer.status < 300 for answer in recent)


def kill(fleet: SentinelFleet, primary: Replicated) -> None:
    primary.kill()


def freeze(fleet: SentinelFleet, primary: Replicated) -> None:
    primary.freeze()


def order_failover(fleet: SentinelFleet, primary: Replicated) -> None:
    fleet.redis.sentinels[0].fail_over()


FAILURES = [
    pytest.param(freeze, id="frozen, and answering again after the failover"),
    pytest.param(kill, id="killed", marks=pytest.mark.skipif(not FULL, reason="with full counts only")),
    pytest.param(order_failover, id="SENTINEL FAILOVER", marks=pytest.mark.skipif(not FULL, reason="with full counts only")),
]


def test_doctor_finds_faults_of_sentinels(fleet: SentinelFleet) -> None:
    found = examine(fleet.environment)
    assert found.lines("fail") == []
    assert found.lines("warn") == [
        "redis: when it is cut off from its replicas, it goes on accepting writes, which are lost after the failover"
    ]
    first = fleet.redis.sentinels[0]
    names = f"names 127.0.0.1:{fleet.redis.primary.port} as the primary of {SERVICE}"
    assert f"sentinel 127.0.0.1:{first.port}: {names}" in found.lines("ok")
    assert "sentinels: 3 know each other, and enough of them answer for a failover" in found.lines("ok")
    assert any(line.startswith("redis: 2 of 2 replicas are up to date") for line in found.lines("ok"))

    wrong = examine({**fleet.environment, "REDIS_SENTINEL_PASSWORD": "anotherpass"})
    assert len(wrong.lines("fail")) == 3
    refuses = f"sentinel 127.0.0.1:{first.port}: refuses the password"
    assert wrong.lines("fail")[0].startswith(refuses)
    assert wrong.advice(refuses) == "Set REDIS_SENTINEL_PASSWORD to requirepass of the sentinels"

    url = fleet.redis.url.replace(SERVICE, "other")
    unknown = examine({**fleet.environment, "REDIS_URL": url})
    assert unknown.lines("fail")[0] == f"sentinel 127.0.0.1:{first.port}: knows no service 'other' (REDIS_URL)"
    assert "serverpass" not in found.output + wrong.output + unknown.output


@pytest.mark.skipif(not FULL, reason="with full counts only")
def test_wrong_service_is_named_in_the_log_and_by_readiness(fleet: SentinelFleet) -> None:
    url = fleet.redis.url.replace(SERVICE, "other")
    instance = Instance({**fleet.environment, "REDIS_URL": url, "INSTANCE_ID": "misconfigured"})
    instance.start(wait_ready=False)
    try:
        user = User(instance)

        def reasons() -> list[str]:
            try:
                found: list[str] = user.get("/health/ready").json()["reasons"]
            except httpx.TransportError:
                return []
            return found

        expected = "redis has not answered yet: no sentinel names a primary; the log says why"
        wait_until(lambda: expected in reasons(), timeout=30, what="readiness to name the sentinels")
        assert (
            f"no sentinel names a primary: 127.0.0.1:{fleet.redis.sentinels[0].port} knows no service 'other'" in instance.log()
        )
        assert "serverpass" not in instance.log()
    finally:
        instance.close()


@pytest.mark.skipif(not FULL, reason="with full counts only")
def test_connections_with_tls_follow_a_failover() -> None:
    with ReplicatedRedis(tls=True) as servers:
        settings = config.load(fleet_environment(servers.url, "postgresql:///unused", REDIS_CA_FILE=str(servers.authority)))
        sentinels = sentinels_of(settings)
        assert sentinels
        watcher = threading.Thread(target=sentinels.run)
        watcher.start()
        client = connect(settings, "test", sentinels=sentinels)
        former = servers.primary
        names = [finding.text.split(": ")[1] for finding in certificates.examine(settings, client, sentinels, [])]
        expected = [f"sentinel 127.0.0.1:{sentinel.port}" for sentinel in servers.sentinels]
        assert names == [*expected, f"redis 127.0.0.1:{former.port}"]
        assert client.set("key", "value")
        wait_until(lambda: client.wait(2, 1000) == 2, what="the value to be replicated")
        servers.sentinels[0].fail_over()
        servers.wait_for_failover(former)
        wait_until(lambda: primary_port(client) not in (None, former.port), what="the client to use the new primary")
        assert client.get("key") == b"value"
        client.close()
        sentinels.close()
        watcher.join()


def primary_port(client: redis.Redis) -> int | None:
    try:
        port: int = client.info("server")["tcp_port"]
    except redis.RedisError:
        return None
    return port


@pytest.mark.serial
@pytest.mark.parametrize("fail", FAILURES)
def test_failover_under_load(fleet: SentinelFleet, machine: Machine, fail: Callable[[SentinelFleet, Replicated], None]) -> None:
    former = fleet.redis.primary
    with Load(fleet) as load:
        wait_until(lambda: all(listener.seqs for listener in load.listeners), timeout=30, what="the first notifications")
        time.sleep(UNTIL_FAILURE_SECONDS)
        failed_at = time.time()
        fail(fleet, former)
        fleet.redis.wait_for_failover(former)
        if fail is freeze:
            former.resume()
        switched_at = fleet.redis.switched_at(failed_at)
        wait_until(lambda: load.is_served(switched_at), timeout=20, what="the users to be served again")
        load.stop()

        assert_short_outage(load, machine, failed_at, switched_at)
        assert_sessions_survive(load, failed_at, switched_at)
        load.notifying.result(timeout=60)
        wait_until(lambda: all(one.seqs[-1:] == [NOTIFICATIONS] for one in load.listeners), 40, "the last notification")
        assert [delivery_faults(one.seqs, NOTIFICATIONS) for one in load.listeners] == [NO_FAULTS] * len(load.listeners)
        assert {one.connections for one in load.listeners} == {1}, "sockets stay open"
        assert_jobs_end(fleet, load.exporter.accepted)
        assert_events_are_stored(fleet, load.sender, failed_at, switched_at)
    traces = [trace for server in [*fleet.instances, fleet.worker] for trace in tracebacks(server.log())]
    assert not traces, traces[0]
    fleet.redis.repair()


@pytest.mark.serial
@pytest.mark.skipif(not FULL, reason="with full counts only")
def test_requests_end_quickly_while_sentinels_and_servers_hang(fleet: SentinelFleet, machine: Machine) -> None:
    visitors = [Visitor(User(*fleet.instances).register()) for _ in range(VISITORS)]
    hanging = [*fleet.redis.sentinels, *fleet.redis.servers]
    stop = threading.Event()
    with ThreadPoolExecutor(VISITORS) as executor:
        for server in hanging:
            server.freeze()
        frozen_at = time.time()
        runs = [executor.submit(visitor.run, stop) for visitor in visitors]
        wait_until(lambda: all(len(visitor.answers) > 3 for visitor in visitors), timeout=20, what="some answers")
        stop.set()
        for run in runs:
            run.result()
        for server in hanging:
            server.resume()
    answers = [answer for visitor in visitors for answer in visitor.answers if answer.started > frozen_at]
    assert {answer.status for answer in answers} == {503}
    assert max(answer.seconds for answer in answers) < machine.limit(QUICK_SECONDS)
    wait_until(lambda: visitors[0].user.get("/api/auth/me").status_code == 200, timeout=20, what="the session to be read again")


def assert_short_outage(load: Load, machine: Machine, failed_at: float, switched_at: float) -> None:
    failures = [answer for answer in load.answers if answer.status >= 300]
    slowest = max(answer.seconds for answer in load.answers)
    back_after = max((answer.ended for answer in failures), default=failed_at) - failed_at
    report(
        f"sentinels: {switched_at - failed_at:.2f} s, service: {back_after:.2f} s, slowest answer: {slowest:.2f} s, "
        f"refused {len(failures)} of {len(load.answers)}"
    )
    assert {answer.status for answer in failures} <= {503}
    assert slowest < machine.limit(QUICK_SECONDS)
    assert failed_at + back_after < switched_at + machine.limit(RECOVERY_SECONDS)


def assert_sessions_survive(load: Load, failed_at: float, switched_at: float) -> None:
    assert [visitor.user.email for visitor in load.visitors if not visitor.is_intact(failed_at - UNREPLICATED_SECONDS)] == []
    signed_out = [at - failed_at for at, user in load.newcomer.registered if not user.is_signed_in()]
    report(f"signed out: {len(signed_out)} of {len(load.newcomer.registered)} who registered")
    assert [seconds for seconds in signed_out if not is_unreplicated(failed_at + seconds, failed_at, switched_at)] == []


def assert_jobs_end(fleet: SentinelFleet, accepted: list[int]) -> None:
    assert accepted

    def statuses() -> set[str]:
        with psycopg2.connect(fleet.database_url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT status FROM analytics_exports WHERE id = ANY(%s)", [accepted])
            found = {status for (status,) in cursor.fetchall()}
        connection.close()
        return found

    wait_until(lambda: statuses() == {"succeeded"}, timeout=90, what="all exports to be written")


def assert_events_are_stored(fleet: SentinelFleet, sender: Sender, failed_at: float, switched_at: float) -> None:
    with fleet.redis.primary.client() as client:
        wait_until(lambda: client.xlen("analytics:events") == 0, 30, "all events to be stored")
    lost = sender.accepted - set(stored(fleet.database_url))
    report(f"events lost: {len(lost)} of {len(sender.accepted)}")
    sent = [sender.sent_at[one].timestamp() for one in lost]
    assert [at - failed_at for at in sent if not is_unreplicated(at, failed_at, switched_at)] == []


def tracebacks(log: str) -> list[str]:
    """Return the lines around each traceback of a log."""
    return [log[max(0, match.start() - 300) : match.end() + 4000] for match in re.finditer("Traceback", log)]


def report(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def is_unreplicated(moment: float, failed_at: float, switched_at: float) -> bool:
    """Return whether a server that was no longer the primary, or soon not, may have confirmed a write that began at that time."""
    return failed_at - UNREPLICATED_SECONDS < moment < switched_at + UNREPLICATED_SECONDS
