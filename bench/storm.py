"""The clients of a killed instance connect to another one within a second: `python -m bench.storm`.

Each client belongs to another user and has missed one notification.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import click
import psycopg2

from bench.growth.fleet import MeasuredFleet, fleet, spent
from bench.growth.sockets import create_users
from harness.reconnect_storm import StormClient, reconnect_storm
from harness.sockets import probed

NAME = "survivor"  # of the instance
CLIENTS, WARM_UP = 2000, 100
# The queries for opening. Others are of periodic tasks, and of the events that the registrations of the clients caused.
QUERIES = ("SELECT users.id, users.password_version", "SELECT column1, column2, inboxes.")
MISSED = [
    "INSERT INTO inboxes (user_id, head, read_up_to) SELECT id, 1, 0 FROM users",
    "INSERT INTO notifications (user_id, seq, type, title, data, created_at)"
    " SELECT id, 1, 'message', 'hello', '{}', now() FROM users",
    "ANALYZE",
]


@dataclass(frozen=True)
class Measured:
    cpu_ms: float  # of the instance, for one socket
    queries: float  # for opening one socket
    refused: int
    opened_ms: float  # p99 from the handshake to the Socket.IO CONNECT
    accepted_ms: float  # p99 from the Engine.IO OPEN to the Socket.IO CONNECT
    requests_ms: float  # p99 of other requests meanwhile


def measure() -> Measured:
    with fleet() as servers:
        servers.environment["INSTANCE_ID"] = NAME
        instance = servers.start()
        cookies = create_users(instance, CLIENTS)
        _add_missed_notifications(servers)
        reconnect_storm(instance.port, [(cookie, 0) for cookie in cookies[:WARM_UP]], last=1)
        with spent(instance.pid) as cpu, servers.postgres.logged_statements(NAME) as logged, probed(instance) as delays:
            clients = reconnect_storm(instance.port, [(cookie, 0) for cookie in cookies], last=1)
        return Measured(
            cpu_ms=cpu[0] * 1e3 / CLIENTS,
            queries=sum(statement.startswith(QUERIES) for statement in logged) / CLIENTS,
            refused=sum(client.refused for client in clients),
            opened_ms=_p99_ms(_all_opened(clients)),
            accepted_ms=_p99_ms([client.accepted or 0.0 for client in clients]),
            requests_ms=_p99_ms(delays),
        )


def table(found: Measured) -> str:
    return "\n".join(
        (
            f"| {CLIENTS:,} clients of a killed instance | |",
            "|---|---:|",
            f"| CPU for one socket, ms | {found.cpu_ms:.2f} |",
            f"| SQL queries for opening one socket | {found.queries:.3f} |",
            f"| refused handshakes | {found.refused} |",
            f"| handshake to CONNECT, p99, ms | {found.opened_ms:.0f} |",
            f"| OPEN to CONNECT, p99, ms | {found.accepted_ms:.0f} |",
            f"| other requests, p99, ms | {found.requests_ms:.0f} |",
        )
    )


def _add_missed_notifications(servers: MeasuredFleet) -> None:
    with closing(psycopg2.connect(servers.environment["DATABASE_URL"])) as connection, connection, connection.cursor() as cursor:
        for statement in MISSED:
            cursor.execute(statement)


def _all_opened(clients: Sequence[StormClient]) -> list[float]:
    opened = [client.opened for client in clients if client.opened is not None and client.seqs == [1]]
    if len(opened) < len(clients):
        raise RuntimeError(f"{len(clients) - len(opened)} clients were not opened, or did not receive exactly what they missed")
    return opened


def _p99_ms(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] * 1e3


if __name__ == "__main__":
    click.echo(table(measure()))
