"""The clients of an ended instance connect to another one within a second. Nothing is lost, and few statements are needed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from statistics import quantiles

import httpx
import psycopg2
import pytest

from harness.fleet import Fleet
from harness.lateness import measured_lateness
from harness.reconnect_storm import StormClient, reconnect_storm
from harness.scale import FULL, count
from harness.servers import Instance, PostgresServer, wait_until
from harness.sockets import probed

CLIENTS = count(300, 2000)
STATEMENTS_OF_OPENING = ("SELECT users.id, users.password_version", "SELECT column1, column2, inboxes.head")
ADD_NOTIFICATION = """
    WITH numbered AS (
        INSERT INTO inboxes (user_id, head, read_up_to) SELECT id, 1, 0 FROM users
        ON CONFLICT (user_id) DO UPDATE SET head = inboxes.head + 1 RETURNING user_id, head
    )
    INSERT INTO notifications (user_id, seq, type, title, data, created_at)
    SELECT user_id, head, 'message', 'hello', '{}', now() FROM numbered
"""


@pytest.fixture(scope="module")
def instance(postgres_server: PostgresServer) -> Iterator[Instance]:
    limits = {"MAX_SOCKETS": "10000"}
    application = "bench.growth.signed_in_users:app"
    with Fleet(postgres_server, size=1, application=application, settings=limits) as fleet:
        yield fleet.instances[0]


@pytest.fixture
def cookies(instance: Instance) -> list[str]:
    """The session cookies of one new user for each client."""
    created: list[str] = httpx.post(f"{instance.url}/bench/people/{CLIENTS}", timeout=60, trust_env=False).json()
    return created


def notify_all(instance: Instance) -> None:
    """Store a notification for every user, without a message to the instance."""
    with closing(psycopg2.connect(instance.environment["DATABASE_URL"])) as connection, connection, connection.cursor() as cursor:
        cursor.execute(ADD_NOTIFICATION)


def sockets(instance: Instance) -> int:
    metrics = httpx.get(f"{instance.url}/metrics", trust_env=False).text
    return int(float(next(line.split()[1] for line in metrics.splitlines() if line.startswith("reporadar_sockets "))))


def connect_all(instance: Instance, cookies: list[str]) -> list[StormClient]:
    """Connect while a second notification is stored for each user, and return the clients when they have received both."""
    notify_all(instance)
    with ThreadPoolExecutor(1) as pool:
        storm = pool.submit(reconnect_storm, instance.port, [(cookie, 0) for cookie in cookies], last=2)
        wait_until(lambda: sockets(instance) > CLIENTS / 4, timeout=30, what="the first sockets")
        notify_all(instance)
        return storm.result()


def percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1]


@pytest.mark.serial
def test_reconnecting_clients_are_identified_and_served_together(
    instance: Instance, postgres_server: PostgresServer, cookies: list[str]
) -> None:
    name = instance.environment["INSTANCE_ID"]
    with postgres_server.logged_statements(name) as statements, probed(instance) as delays, measured_lateness() as lateness:
        clients = connect_all(instance, cookies)
    assert [client.seqs for client in clients] == [[1, 2]] * CLIENTS
    assert all(client.ready for client in clients)
    of_opening = [statement for statement in statements if statement.startswith(STATEMENTS_OF_OPENING)]
    assert 0 < len(of_opening) <= CLIENTS / 10
    if FULL:
        # The official Python client waits for a second.
        assert percentile([client.accepted or 0 for client in clients], 99) < 1 + lateness.slack
        assert percentile(delays, 95) < 0.1 + lateness.slack
