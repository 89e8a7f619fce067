"""Clients that send analytics events and record the outcome of each, and queries for the stored events."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import psycopg2
import psycopg2.extensions

from harness import web
from harness.processes import PATIENCE_SECONDS, wait_until
from harness.servers import RedisServer
from harness.users import Reachable, User

STREAM = "analytics:events"


def batch_of(count: int, name: str = "clicked") -> list[dict[str, str]]:
    return [{"id": str(uuid.uuid4()), "name": name, "category": "test"} for _ in range(count)]


@dataclass
class Sender:
    """A client that sends batches with a session cookie, and repeats each batch until an instance accepts it."""

    cookies: dict[str, str]
    instances: Sequence[Reachable]
    count: int = 10
    pause: float = 0.0
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # because of an opt-out
    unknown: set[str] = field(default_factory=set)  # no answer arrived, so they may have been accepted
    sent_at: dict[str, datetime] = field(default_factory=dict)  # time of the first attempt
    retries: int = 0

    def run(self, stop: threading.Event) -> None:
        turns = itertools.cycle(self.instances)
        with web.client(timeout=5) as client:
            while not stop.is_set():
                self._send(client, batch_of(self.count), turns, stop)
                stop.wait(self.pause)

    def _send(self, client: httpx.Client, batch: list[dict[str, str]], turns: Iterator[Reachable], stop: threading.Event) -> None:
        ids = {event["id"] for event in batch}
        self.sent_at |= dict.fromkeys(ids, datetime.now(UTC))
        while True:
            with suppress(httpx.TransportError):
                answer = client.post(
                    f"{next(turns).url}/api/analytics/events", json={"events": batch}, headers={"Cookie": _line(self.cookies)}
                )
                if answer.status_code == 202:
                    (self.refused if answer.json()["opted_out"] else self.accepted).update(ids)
                    assert answer.json()["opted_out"] or answer.json()["accepted"] == len(batch)
                    self.unknown -= ids if not answer.json()["opted_out"] else set()
                    return
                assert answer.status_code in (502, 503), answer.text
            self.retries += 1
            self.unknown |= ids
            if stop.wait(0.05):
                return


def _line(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def session_of(user: User) -> dict[str, str]:
    """Return the session cookie without the opt-out cookie, so that only the opt-out of the account protects the user."""
    return {"reporadar_session": user.cookie}


@contextmanager
def running(senders: Sequence[Sender]) -> Iterator[None]:
    stop, failures = threading.Event(), list[BaseException]()

    def run(sender: Sender) -> None:
        try:
            sender.run(stop)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []


def snapshot(database_url: str) -> psycopg2.extensions.connection:
    """Return a connection whose queries all see the same snapshot."""
    connection = psycopg2.connect(database_url)
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    return connection


def stored(database_url: str) -> dict[str, datetime]:
    """Return the IDs and times of the stored events. Check that none is stored twice and that the rollups are right."""
    with snapshot(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT event_id, occurred_at FROM analytics_events WHERE category = 'test'")
        rows = cursor.fetchall()
        cursor.execute("SELECT grain, sum(events) FROM analytics_rollups WHERE category = 'test' GROUP BY grain")
        counted = {grain: int(total) for grain, total in cursor.fetchall() if total}
    connection.close()
    found = dict(rows)
    assert len(found) == len(rows), "an event was stored twice"
    assert (
        counted in ({}, {"hour": len(rows), "day": len(rows)}) if not rows else counted == {"hour": len(rows), "day": len(rows)}
    )
    return found


def await_all_stored(redis: RedisServer, timeout: float = PATIENCE_SECONDS) -> None:
    with redis.client() as client:
        wait_until(lambda: client.xlen(STREAM) == 0, timeout, "all events to be stored")
