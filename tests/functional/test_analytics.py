"""Analytics events and opt-outs on real fleets: nothing is lost, duplicated, or stored after an opt-out."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg2
import pytest

from harness import web
from harness.event_senders import STREAM, Sender, await_all_stored, batch_of, running, session_of, stored
from harness.fleet import NO_RATE_LIMITS, Fleet
from harness.lateness import time_limit
from harness.processes import wait_until
from harness.scale import FULL, count, full_only
from harness.servers import Instance, Worker, embedded_environment, migrate
from harness.users import PASSWORD, User

KILLS, ACCEPTED = count(6, 100), count(100, 1000)


class EventFleet(Fleet):
    """Three instances and two workers, with stores of their own."""

    def __init__(self, worker: str = "app.worker", application: str = "wsgi:app") -> None:
        super().__init__(
            size=3,
            workers=2,
            application=application,
            worker=worker,
            settings={"LOG_LEVEL": "WARNING"},
            worker_settings={"LOG_LEVEL": "INFO"},
        )

    def user(self) -> User:
        return User(*self.instances).register()

    def stored(self) -> dict[str, datetime]:
        await_all_stored(self.redis)
        return stored(self.database_url)


StartFleet = Callable[..., EventFleet]


@pytest.fixture
def start() -> Iterator[StartFleet]:
    """Start fleets with a fault."""
    with ExitStack() as stack:
        yield lambda **entry_points: stack.enter_context(EventFleet(**entry_points))


@pytest.fixture(scope="module")
def fleet() -> Iterator[EventFleet]:
    """A fleet for all tests without a seeded fault: each has users of its own and leaves all servers running."""
    with EventFleet() as fleet:
        yield fleet


def opt_out(user: User, instance: Instance) -> datetime:
    answer = user.client.put(f"{instance.url}/api/analytics/opt-out")
    assert answer.status_code == 200, answer.text
    assert answer.json()["opted_out"] is True
    return datetime.fromisoformat(answer.json()["fenced_at"])


Ids = set[str]


def send(user: User | httpx.Client, instance: Instance, count: int = 1) -> tuple[httpx.Response, Ids]:
    """Send events without the opt-out cookie, so that only the opt-out of the account protects the user."""
    batch = batch_of(count)
    headers = {"Cookie": user.cookie_header} if isinstance(user, User) else user.headers
    url = f"{instance.url}/api/analytics/events"
    answer = web.post(url, json={"events": batch}, headers=headers, timeout=10)
    return answer, {event["id"] for event in batch}


def accept(user: User | httpx.Client, instance: Instance, count: int = 1) -> Ids:
    answer, ids = send(user, instance, count)
    assert (answer.status_code, answer.json()) == (202, {"accepted": count, "rejected": [], "opted_out": False})
    return ids


# Kills.


def kill_at_random(servers: Sequence[Instance | Worker], times: int, chance: random.Random) -> None:
    """Send SIGKILL to servers at random times, their startup included, and restart each immediately."""
    for _ in range(times):
        victim = chance.choice(servers)
        victim.kill()
        victim.start(wait_ready=False)
        time.sleep(chance.uniform(0.05, 0.6))


def wait_for_accepted(senders: Sequence[Sender], more: int) -> None:
    before = accepted_by(senders)
    wait_until(lambda: accepted_by(senders) >= before + more, what=f"{more} more accepted events")


def accepted_by(senders: Sequence[Sender]) -> int:
    return sum(len(sender.accepted) for sender in senders)


def wait_for_attempts(senders: Sequence[Sender]) -> None:
    """Wait for a failed request or for further accepted events."""
    accepted, retries = accepted_by(senders), sum(sender.retries for sender in senders)
    wait_until(
        lambda: sum(sender.retries for sender in senders) > retries or accepted_by(senders) > accepted + 50,
        what="further requests",
    )


@pytest.mark.parametrize("seed", [7])
def test_events_survive_many_sigkills_without_loss_or_duplicates(fleet: EventFleet, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    before = set(fleet.stored())
    senders = [Sender(session_of(fleet.user()), fleet.instances, count=10, pause=0.02) for _ in range(4)]
    with running(senders):
        kill_at_random([*fleet.instances, *fleet.workers], KILLS, chance)
        for server in (*fleet.instances, *fleet.workers):
            server.wait_ready()
    accepted, unknown = (set().union(*(getattr(sender, kind) for sender in senders)) for kind in ("accepted", "unknown"))
    found = set(fleet.stored()) - before
    assert accepted - found == set()
    assert found - accepted - unknown == set()
    assert len(accepted) > ACCEPTED
    assert sum(sender.retries for sender in senders) > 0


def test_killed_stores_lose_no_accepted_event(fleet: EventFleet) -> None:
    before = set(fleet.stored())
    senders = [Sender(session_of(fleet.user()), fleet.instances, count=10, pause=0.02) for _ in range(4)]
    with running(senders):
        for server in (fleet.redis, fleet.postgres) * count(2, 4):
            wait_for_accepted(senders, 30)
            with server.lost():
                wait_for_attempts(senders)
        wait_for_accepted(senders, 30)
    accepted, unknown = (set().union(*(getattr(sender, kind) for sender in senders)) for kind in ("accepted", "unknown"))
    found = set(fleet.stored()) - before
    assert accepted - found == set()
    assert found - accepted - unknown == set()
    assert len(accepted) > count(150, 500)


@full_only
def test_events_acknowledged_before_storage_are_lost(start: StartFleet) -> None:
    """The negative control of the tests above."""
    fleet = start(worker="tests.faults.acknowledged_early")
    senders = [Sender(session_of(fleet.user()), fleet.instances, count=50) for _ in range(2)]
    with running(senders):
        kill_at_random(fleet.workers, 12, random.Random(7))  # noqa: S311
    accepted = set().union(*(sender.accepted for sender in senders))
    assert accepted - set(fleet.stored()) != set()


def test_killed_embedded_instance_loses_and_duplicates_nothing(tmp_path: Any) -> None:
    environment = embedded_environment(tmp_path, **NO_RATE_LIMITS)
    migrate(environment)
    with Instance(environment) as instance:
        user = User(instance).register()
        senders = [Sender(session_of(user), [instance], count=10) for _ in range(2)]
        with running(senders):
            for _ in range(count(2, 10)):
                wait_for_accepted(senders, 10)
                instance.kill()
                instance.start()
            wait_for_accepted(senders, 10)
        accepted, unknown = (set().union(*(getattr(sender, kind) for sender in senders)) for kind in ("accepted", "unknown"))
        everything = user.request("DELETE", "/api/analytics/me").json()["erased"]
        assert len(accepted) <= everything <= len(accepted | unknown)
        assert len(accepted) > count(20, 100)


# Opt-outs.


@contextmanager
def frozen(*servers: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server.lost("freeze"))
        yield


@dataclass
class OptOut:
    sender: Sender
    fenced_at: datetime
    answered_at: datetime

    @property
    def sent_afterwards(self) -> Ids:
        return {one for one, moment in self.sender.sent_at.items() if moment > self.answered_at}


def opt_out_under_load(fleet: EventFleet) -> tuple[list[OptOut], list[Sender], float]:
    """Let eight users send events. Six of them opt out at random times at random instances.

    Return their opt-outs, the senders of the others, and the number of events per second.
    """
    chance = random.Random(11)  # noqa: S311
    users = [fleet.user() for _ in range(8)]
    senders = [Sender(session_of(user), fleet.instances, count=25, pause=0.1) for user in users]
    opt_outs = []
    began = time.monotonic()
    with running(senders):
        wait_for_accepted(senders, 500)
        for user, sender in zip(users[:6], senders[:6], strict=True):
            time.sleep(chance.uniform(0.1, 0.6))
            fenced_at = opt_out(user, chance.choice(fleet.instances))
            opt_outs.append(OptOut(sender, fenced_at, datetime.now(UTC)))
        wait_until(lambda: all(one.sent_afterwards for one in opt_outs), what="events that are sent after each opt-out")
        wait_for_accepted(senders, 100)
    rate = sum(len(sender.sent_at) for sender in senders) / (time.monotonic() - began)
    return opt_outs, senders[6:], rate


def wrongly_kept(opt_outs: Sequence[OptOut], found: dict[str, datetime]) -> tuple[int, int]:
    """Return how many events were wrongly accepted and how many were wrongly stored."""
    accepted = sum(len(one.sent_afterwards & one.sender.accepted) for one in opt_outs)
    late = sum(
        event in found and (found[event] > opt_out.fenced_at or event in opt_out.sent_afterwards)
        for opt_out in opt_outs
        for event in opt_out.sender.sent_at
    )
    return accepted, late


def test_no_event_is_stored_after_an_opt_out(fleet: EventFleet) -> None:
    opt_outs, others, rate = opt_out_under_load(fleet)
    found = fleet.stored()
    assert wrongly_kept(opt_outs, found) == (0, 0)
    assert all(one.sent_afterwards for one in opt_outs)
    for other in others:
        assert other.accepted - found.keys() == set()
        assert other.refused == set()
    assert rate > 500 or not FULL  # other tests that run at the same time slow it down


@full_only
def test_opt_out_that_fails_open_is_detected(start: StartFleet) -> None:
    """The negative control: instances that use stale consent, and workers that ignore opt-outs."""
    fleet = start(worker="tests.faults.opt_out_fails_open", application="tests.faults.opt_out_fails_open:app")
    opt_outs, _, _ = opt_out_under_load(fleet)
    accepted, late = wrongly_kept(opt_outs, fleet.stored())
    assert accepted > 0
    assert late > 0


def test_opt_out_drops_events_that_wait_for_storage(fleet: EventFleet) -> None:
    ada, bob = fleet.user(), fleet.user()
    adas, bobs = Ids(), Ids()
    with frozen(*fleet.workers):
        for instance in fleet.instances:
            adas |= accept(ada, instance, 5)
            bobs |= accept(bob, instance, 5)
        fenced_at = opt_out(ada, fleet.instances[0])
        ada.client.delete(f"{fleet.instances[1].url}/api/analytics/opt-out")
        afresh = accept(ada, fleet.instances[2], 2)
    found = fleet.stored()
    assert adas & found.keys() == set()
    assert bobs | afresh <= found.keys()
    assert all(found[one] > fenced_at for one in afresh)


@pytest.fixture
def visitors() -> Iterator[list[httpx.Client]]:
    """Three browsers with one client address."""
    with ExitStack() as stack:
        agents = [f"browser-{number}-{random.random()}" for number in range(3)]  # noqa: S311
        yield [stack.enter_context(web.client(headers={"User-Agent": agent})) for agent in agents]


def test_opt_out_of_a_visitor_drops_waiting_and_late_events(fleet: EventFleet, visitors: list[httpx.Client]) -> None:
    ada, bob, _ = visitors
    with frozen(*fleet.workers):
        adas, bobs = (accept(visitor, fleet.instances[0], 5) for visitor in (ada, bob))
        assert ada.put(f"{fleet.instances[1].url}/api/analytics/opt-out").json()["reason"] == "session"
        late, _ = send(ada, fleet.instances[2], 5)  # of a request that was sent before the answer came: without the cookie
        assert late.json() == {"accepted": 0, "rejected": [], "opted_out": True}
    found = fleet.stored()
    assert adas & found.keys() == set()
    assert bobs <= found.keys()


def test_opt_out_applies_on_all_instances_immediately(fleet: EventFleet) -> None:
    user, chance = fleet.user(), random.Random(3)  # noqa: S311
    for turn in range(100):
        method, wanted = ("PUT", True) if turn % 2 == 0 else ("DELETE", False)
        changed = user.client.request(method, f"{chance.choice(fleet.instances).url}/api/analytics/opt-out")
        assert changed.json()["opted_out"] is wanted
        if wanted:
            user.client.cookies.delete("analytics", domain="127.0.0.1")
        seen = [user.client.get(f"{instance.url}/api/analytics/opt-out").json() for instance in fleet.instances]
        assert [one["opted_out"] for one in seen] == [wanted] * 3
        assert {one["fenced_at"] for one in seen} == {changed.json()["fenced_at"]}


def test_erased_events_do_not_come_back(fleet: EventFleet) -> None:
    user = fleet.user()
    before = accept(user, fleet.instances[0], 20)
    assert before <= fleet.stored().keys()
    with frozen(*fleet.workers):
        waiting = accept(user, fleet.instances[1], 20)
        assert user.client.delete(f"{fleet.instances[2].url}/api/analytics/me").json()["erased"] == 20
    afterwards = accept(user, fleet.instances[0], 3)
    found = fleet.stored().keys()
    assert (before | waiting) & found == set()
    assert afterwards <= found


def test_deleting_an_account_deletes_its_events(fleet: EventFleet) -> None:
    user = fleet.user()
    before = accept(user, fleet.instances[0], 5)
    assert before <= fleet.stored().keys()
    with frozen(*fleet.workers):
        waiting = accept(user, fleet.instances[1], 5)
        assert user.request("DELETE", "/api/auth/account", json={"password": PASSWORD}).status_code == 204
    assert (before | waiting) & fleet.stored().keys() == set()


# Stores that are away.


def test_without_redis_events_are_refused_and_pages_do_not_wait(fleet: EventFleet, visitors: list[httpx.Client]) -> None:
    user = fleet.user()
    for instance in fleet.instances:
        accept(user, instance)
    with frozen(fleet.redis):
        for instance in fleet.instances:
            choice = f"{instance.url}/api/analytics/opt-out"
            requests: list[Callable[[], httpx.Response]] = [
                lambda: send(user, instance)[0],  # noqa: B023 - called at once
                lambda: send(visitors[0], instance)[0],  # noqa: B023
                lambda: user.client.put(choice),  # noqa: B023
                lambda: user.client.get(choice),  # noqa: B023
            ]
            refused = []
            for request in requests:
                with time_limit(3, "the request"):
                    refused.append(request())
            for answer in refused:
                assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
            for _ in range(3):
                with time_limit(1, "the page"):  # Redis would be waited for longer
                    assert visitors[0].get(f"{instance.url}/register").status_code == 200
    wait_until(lambda: send(user, fleet.instances[0])[0].status_code == 202, what="Redis to be back")
    seen = user.client.get(f"{fleet.instances[1].url}/api/analytics/opt-out").json()
    assert seen == {"opted_out": False, "reason": None, "fenced_at": None}


def test_opt_out_cannot_change_without_the_database(fleet: EventFleet) -> None:
    user = fleet.user()
    accept(user, fleet.instances[0])
    with frozen(fleet.postgres):
        for instance in fleet.instances:
            answer = user.client.put(f"{instance.url}/api/analytics/opt-out")
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
            assert "analytics" not in answer.cookies
    wait_until(lambda: send(user, fleet.instances[0])[0].status_code == 202, what="the database to be back")
    seen = user.client.get(f"{fleet.instances[1].url}/api/analytics/opt-out").json()
    assert seen["opted_out"] is False


def test_visitor_events_are_accepted_during_a_database_outage_and_stored_later(
    fleet: EventFleet, visitors: list[httpx.Client]
) -> None:
    """Events of visitors whose consent is not known are refused."""
    known, unknown, _ = visitors
    ids = Ids().union(*(accept(known, instance) for instance in fleet.instances))
    with frozen(fleet.postgres):
        for instance in fleet.instances:
            ids |= accept(known, instance, 10)
            assert send(unknown, instance)[0].status_code == 503
    assert ids <= fleet.stored().keys()


def test_full_stream_is_answered_503_and_does_not_grow(fleet: EventFleet) -> None:
    user = fleet.user()
    accept(user, fleet.instances[0])
    fleet.stored()
    with fleet.redis.client() as client, frozen(*fleet.workers):
        fill(client, 100_000)
        answer, _ = send(user, fleet.instances[0])
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert client.xlen(STREAM) == 100_000
        client.delete(STREAM)
    wait_until(lambda: accept(user, fleet.instances[0]) <= fleet.stored().keys(), what="events to be stored again")


def fill(client: Any, count: int) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(count - client.xlen(STREAM)):
            pipeline.xadd(STREAM, {"x": "y"})
        pipeline.execute()


def test_malformed_events_delay_no_others(fleet: EventFleet) -> None:
    user, ids = fleet.user(), Ids()
    with fleet.redis.client() as client:
        for number in range(20):
            client.xadd(STREAM, {"person": "a", "version": "1", "event": "{" * number})
            ids |= accept(user, fleet.instances[number % 3], 5)
        assert ids <= fleet.stored().keys()
        assert client.xlen("analytics:poison") >= 20


def test_read_only_database_serves_reads_and_loses_no_event(fleet: EventFleet) -> None:
    user, first, ids = fleet.user(), fleet.instances[0], Ids()
    for instance in fleet.instances:
        ids |= accept(user, instance)
    fleet.stored()
    with fleet.redis.client() as client:
        dead_letters = client.xlen("analytics:poison")
        with fleet.postgres.read_only(fleet.database_url):
            health = f"{first.url}/health"
            wait_until(lambda: web.get(health).json()["checks"]["database"].get("output") == "read-only", what="a warning")
            for number in range(30):
                ids |= accept(user, fleet.instances[number % 3], 5)
            assert web.get(health).status_code == web.get(f"{first.url}/health/ready").status_code == 200
            for path in ("/notifications", "/api/analytics/opt-out"):
                assert user.client.get(first.url + path).status_code == 200
            refused = user.client.post(f"{first.url}/api/repositories", json={"url": "https://github.com/pallets/flask"})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
            for server in (fleet.instances[2], fleet.workers[0]):  # both start and do what they can
                assert server.terminate() == 0
                server.start()
            assert user.client.get(f"{fleet.instances[2].url}/notifications").status_code == 200
            assert client.xlen(STREAM) >= 150  # the workers have tried meanwhile
        assert ids <= fleet.stored().keys()
        assert client.xlen("analytics:poison") == dead_letters


@full_only
def test_events_dead_lettered_by_an_outage_are_lost(start: StartFleet) -> None:
    """The negative control of the test above."""
    fleet = start(worker="tests.faults.outages_dead_lettered")
    user = fleet.user()
    accept(user, fleet.instances[0])
    fleet.stored()
    with fleet.postgres.read_only(fleet.database_url), fleet.redis.client() as client:
        ids = accept(user, fleet.instances[0], 5)
        wait_until(lambda: client.xlen("analytics:poison") == 5, what="the events to be dead-lettered")
    assert ids.isdisjoint(fleet.stored())


def test_locked_user_row_delays_no_other_user(fleet: EventFleet) -> None:
    ada, bob = fleet.user(), fleet.user()
    for user in (ada, bob):
        accept(user, fleet.instances[0])
    fleet.stored()
    connection = psycopg2.connect(fleet.database_url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM analytics_people JOIN users ON users.id = user_id WHERE email = %s FOR UPDATE", [ada.email])
        adas, bobs = accept(ada, fleet.instances[0], 10), accept(bob, fleet.instances[1], 10)
        wait_until(lambda: bobs <= stored(fleet.database_url).keys(), what="the other's events to be stored")
        assert adas & stored(fleet.database_url).keys() == set()
    connection.close()
    assert adas <= fleet.stored().keys()


def test_stopping_workers_lose_no_event(fleet: EventFleet) -> None:
    sender = Sender(session_of(fleet.user()), fleet.instances, count=20, pause=0.01)
    with running([sender]):
        for worker in fleet.workers * count(1, 3):
            worker.wait_working()
            assert worker.terminate() == 0
            worker.start()
            worker.wait_working()
    assert sender.accepted - fleet.stored().keys() == set()


def test_stopping_instance_stores_its_recorded_events(fleet: EventFleet) -> None:
    before = page_views(fleet)
    instance = fleet.instances[0]
    with web.client() as client:
        for _ in range(20):
            assert client.get(f"{instance.url}/").status_code == 200
    instance.send(signal.SIGTERM)
    assert instance.wait() == 0
    assert page_views(fleet) == before + 20
    instance.start()


def page_views(fleet: EventFleet) -> int:
    await_all_stored(fleet.redis)
    with closing(psycopg2.connect(fleet.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM analytics_events WHERE name = 'page_viewed'")
        ((views,),) = cursor.fetchall()
    return int(views)
