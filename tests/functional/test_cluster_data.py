"""Sessions, limits, events and jobs on a Redis Cluster, while a master is killed and while a slot moves to another master."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import pytest

from app.analytics.partitions import partitions_of
from app.core import config
from app.redis.client import SOCKET_TIMEOUT_SECONDS, connect
from app.redis.cluster import slot_of_key
from harness.event_senders import Sender, running, session_of, stored
from harness.fleet import Fleet
from harness.lateness import measured_lateness
from harness.redis_cluster import RedisCluster
from harness.scale import full_only
from harness.servers import PostgresServer, promote, wait_until
from harness.users import User

USERS, ADMINS = 24, 6
MAX_SECONDS = 4.0  # an answer within 2 s, and what a busy machine adds
EXPORT = {"from": "2026-01-01", "to": "2026-02-01", "format": "csv"}
TAG_OF_JOBS = "{dramatiq}"

pytestmark = full_only


@pytest.fixture(scope="module")
def fleet(redis_cluster: RedisCluster, postgres_server: PostgresServer) -> Iterator[Fleet]:
    with Fleet(postgres_server, redis_url=redis_cluster.url, size=2, workers=2, settings={"LOG_LEVEL": "WARNING"}) as fleet:
        yield fleet
        for server in (*fleet.instances, *fleet.workers):
            sys.stdout.write(server.log()[-3000:])


def register(fleet: Fleet, number: int) -> list[User]:
    with ThreadPoolExecutor(4) as executor:
        return list(executor.map(lambda _: User(*fleet.instances).register(), range(number)))


def record_slot(user: User) -> int:
    """Return the slot of the keys of a signed-in user: the ID of the session begins with the user's number."""
    return slot_of_key(f"{{user:{user.cookie.partition('.')[0]}}}")


@dataclass
class Reader:
    """Reads with a session until it is stopped, and records what it gets."""

    user: User
    statuses: list[int] = field(default_factory=list)
    served_at: float = 0.0  # the last 200
    refused: list[float] = field(default_factory=list)  # seconds until each 503 because of Redis

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.3):
            started = time.monotonic()
            response = self.user.get("/api/auth/me")
            self.statuses.append(response.status_code)
            if response.status_code == 200:
                self.served_at = time.monotonic()
            elif "Redis" in response.text:  # on a busy machine the database may not answer in time either
                assert response.headers["Retry-After"]
                self.refused.append(time.monotonic() - started)


@contextmanager
def reading(readers: list[Reader]) -> Iterator[None]:
    stop = threading.Event()
    with ThreadPoolExecutor(len(readers)) as executor:
        runs = [executor.submit(reader.run, stop) for reader in readers]
        try:
            yield
        finally:
            stop.set()
    for run in runs:
        run.result()


def waiting_events(fleet: Fleet) -> int:
    client: Any = connect(config.load(fleet.environment), "test")
    with client:
        return sum(client.xlen(partition.stream) for partition in partitions_of(client))


def exports(fleet: Fleet) -> dict[str, int]:
    connection = psycopg2.connect(fleet.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT status, count(*) FROM analytics_exports GROUP BY status")
        found = dict(cursor.fetchall())
    connection.close()
    return found


def order_exports(admins: list[User]) -> None:
    """Each request succeeds, since an export is a row in SQL, or is answered 503 while the session cannot be read."""
    for admin in admins:
        wait_until(lambda admin=admin: _order(admin), what="an order to be accepted")  # type: ignore[misc]


def _order(admin: User) -> bool:
    response = admin.post("/api/analytics/exports", **EXPORT)
    assert response.status_code in (202, 503), response.text
    return response.status_code == 202


def events_of(senders: list[Sender], fleet: Fleet) -> tuple[set[str], set[str], set[str]]:
    """Return the events that were accepted, those whose answer is unknown, and those that are stored, each once."""
    wait_until(lambda: waiting_events(fleet) == 0, what="all events to be stored")
    accepted, unknown = (set().union(*(getattr(sender, kind) for sender in senders)) for kind in ("accepted", "unknown"))
    return accepted, unknown, set(stored(fleet.database_url))


def test_only_users_of_a_killed_master_notice_and_nothing_is_lost(fleet: Fleet, redis_cluster: RedisCluster) -> None:
    users, admins = register(fleet, USERS), register(fleet, ADMINS)
    for admin in admins:
        promote(fleet.environment, admin.email)
    ended = [User(*fleet.instances) for _ in users[:4]]
    for user, other in zip(users, ended, strict=False):
        other.email = user.email
        assert other.log_in().status_code == 200
        assert user.client.delete(f"{fleet.instances[0].url}/api/auth/sessions").status_code == 204
    victim = redis_cluster.master_of(TAG_OF_JOBS)
    readers = [Reader(user) for user in users]
    theirs = [reader for reader in readers if redis_cluster.master_of(record_slot(reader.user)) is victim]
    others = [reader for reader in readers if reader not in theirs]
    assert theirs
    assert others
    senders = [Sender(session_of(user), fleet.instances, count=5, pause=0.2) for user in users[4:12]]
    opted_out = [Sender(session_of(user), fleet.instances, count=5, pause=0.2) for user in users[12:18]]
    for user in users[12:18]:
        assert user.client.put(f"{fleet.instances[0].url}/api/analytics/opt-out").status_code == 200
    before, before_events = exports(fleet).get("succeeded", 0), set(stored(fleet.database_url))
    with (
        measured_lateness() as lateness,
        running([*senders, *opted_out]),
        reading(readers),
        ExitStack() as lost,
    ):
        wait_until(lambda: all(sender.accepted for sender in senders), what="events of all senders")
        order_exports(admins[:3])
        lost.enter_context(redis_cluster.without(victim))
        killed_at = time.monotonic()
        with fleet.workers[0].lost():
            order_exports(admins)
        redis_cluster.wait_for_takeover(TAG_OF_JOBS)
        taken_over_at = time.monotonic()
        wait_until(lambda: all(reader.served_at > taken_over_at for reader in readers), what="all users to be served again")
        back_at = time.monotonic()
        wait_until(lambda: exports(fleet).get("succeeded", 0) == before + ADMINS + 3, what="all exports to be done")
    accepted, unknown, found = events_of(senders, fleet)
    report = {
        "takeover": round(taken_over_at - killed_at, 1),
        "served again": round(back_at - killed_at, 1),
        "slowest 503": round(max(max(reader.refused, default=0.0) for reader in readers), 2),
        "number of 503": sum(len(reader.refused) for reader in theirs),
        "events accepted": len(accepted),
        "events lost": len(accepted - found),
    }
    sys.stdout.write(f"{report}\n")
    for reader in readers:
        assert set(reader.statuses) <= {200, 503}
        assert all(seconds < MAX_SECONDS + lateness.slack for seconds in reader.refused)
    assert lateness.excuses(SOCKET_TIMEOUT_SECONDS) or not any(reader.refused for reader in others)
    assert all(reader.refused for reader in theirs)
    assert found - before_events - accepted - unknown == set()
    assert all(sender.refused and not found & sender.sent_at.keys() for sender in opted_out)
    assert len(accepted - found) < 20  # those of the last moment, which the replica had not received
    assert not any(other.is_signed_in() for other in ended)


def test_nothing_is_lost_while_slots_move_to_another_master(fleet: Fleet, redis_cluster: RedisCluster) -> None:
    """The slots of users, of the partitions of events and of the jobs move there and back."""
    users, admin = register(fleet, 6), register(fleet, 1)[0]
    promote(fleet.environment, admin.email)
    second_sessions = [User(*fleet.instances) for _ in users]
    client: Any = connect(config.load(fleet.environment), "test")
    with client:
        streams = [partition.stream for partition in partitions_of(client)]
    slots = {*map(record_slot, users), *map(slot_of_key, streams), slot_of_key(TAG_OF_JOBS)}
    readers = [Reader(user) for user in users]
    senders = [Sender(session_of(user), fleet.instances, count=5, pause=0.1) for user in users]
    before, before_events = exports(fleet).get("succeeded", 0), set(stored(fleet.database_url))
    sign_ins: list[int] = []

    def sign_in() -> None:
        """Sign in once more while half of the keys have moved. TRYAGAIN lasts until all have, which is after the time limit."""
        for user, other in zip(users, second_sessions, strict=True):
            other.email = user.email
            sign_ins.append(other.log_in().status_code)

    with running(senders), reading(readers):
        for number, slot in enumerate(sorted(slots)):
            source = redis_cluster.master_of(slot)
            target = next(master for master in redis_cluster.masters() if master is not source)
            redis_cluster.migrate_slot(slot, target, halfway=sign_in if number % 4 == 0 else lambda: None)
            if number % 4 == 1:
                order_exports([admin])
                done = before + number // 4 + 1
                wait_until(lambda done=done: exports(fleet).get("succeeded", 0) >= done, what="the export")  # type: ignore[misc]
    accepted, unknown, found = events_of(senders, fleet)
    sys.stdout.write(f"{len(slots)} slots moved; {len(accepted)} events; sign-ins: {Counter(sign_ins)}\n")
    assert accepted - found == set()
    assert found - before_events - accepted - unknown == set()
    assert not any(reader.refused for reader in readers)
    assert set(sign_ins) <= {200, 503}
    assert sign_ins.count(200) > sign_ins.count(503)
    for user in users:
        response = user.client.delete(f"{fleet.instances[0].url}/api/auth/sessions")
        assert response.status_code == 204
    assert all(user.is_signed_in() for user in users)
    assert not any(other.is_signed_in() for other in second_sessions)
