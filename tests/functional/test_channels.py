"""Real workers deliver notifications to a real https receiver while they are killed: none is lost, and IDs stay the same."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2

from app.auth import store as accounts
from app.notifications import store as notifications
from harness.scale import count
from harness.schema import open_database
from harness.servers import Instance, Worker, wait_until
from harness.users import User
from harness.webhooks import Received, WebhookReceiver
from tests.functional.conftest import StartFleet

CHANNELS = "/api/notifications/channels"
# The lease of a killed worker expires after a while, for which the test does not wait.
EXPIRE_LEASES = "UPDATE notification_channels SET leased_until = now() WHERE leased_until IS NOT NULL"


def add_channel(user: User, instance: Instance, url: str) -> tuple[int, str]:
    """Return the ID and the secret of a new webhook."""
    response = user.client.post(f"{instance.url}{CHANNELS}", json={"kind": "webhook", "url": url})
    assert response.status_code == 201, response.text
    return response.json()["id"], response.json()["secret"]


def notify(url: str, user: User, title: str, count: int = 1) -> None:
    with closing(open_database(url)) as database:
        found = database.run(accounts.by_email, user.email)
        assert found
        for _ in range(count):
            database.run(notifications.add, [found.id], "message", title, {})


def start_worker(stack: ExitStack, instance: Instance) -> Worker:
    worker = stack.enter_context(Worker({**instance.environment, "INSTANCE_ID": "worker"}))
    stack.callback(lambda: sys.stdout.write(worker.log()))  # which pytest shows where a test fails
    return worker


def execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def test_worker_that_is_killed_between_delivery_and_commit_repeats_it_with_the_same_id(
    start_fleet: StartFleet, database_url: str, tmp_path: Path
) -> None:
    total, kills = count(3, 40), count(1, 20)
    with WebhookReceiver(tmp_path) as receiver, ExitStack() as stack:
        (instance,) = start_fleet(1, **receiver.environment)
        user = User(instance).register()
        channel, secret = add_channel(user, instance, receiver.address())
        worker = start_worker(stack, instance)
        killed: list[str] = []

        def kill_worker(received: Received) -> None:
            if len(killed) < kills and received.id not in killed:
                worker.send(signal.SIGKILL)
                worker.wait()
                killed.append(received.id)

        receiver.inbox.before_reply = kill_worker
        notify(database_url, user, "Hello", total)
        for number in range(1, kills + 1):
            wait_until(lambda number=number: len(killed) == number, what="the worker to be killed")  # type: ignore[misc]
            execute(database_url, EXPIRE_LEASES)
            worker = start_worker(stack, instance)
        path = f"{instance.url}{CHANNELS}/{channel}/deliveries"
        wait_until(
            lambda: [one["status"] for one in user.client.get(path).json()["deliveries"]] == [200] * total, what="all deliveries"
        )
        counted = Counter(received.id for received in receiver.received)
        assert counted == {f"msg_{channel}_{seq}": 1 + (seq <= kills) for seq in range(1, total + 1)}
        assert all(received.is_signed_with(secret) for received in receiver.received)
        assert list(dict.fromkeys(received.document["seq"] for received in receiver.received)) == list(range(1, total + 1))
        assert user.client.delete(f"{instance.url}{CHANNELS}/{channel}").status_code == 204
        notify(database_url, user, "Too late")
        add_channel(user, instance, receiver.address("hook/2"))
        notify(database_url, user, "In time")
        wait_until(lambda: receiver.received[-1].path == "/hook/2", what="the notification of the other channel")
        assert [received.document["text"] for received in receiver.received].count("Too late") == 0
