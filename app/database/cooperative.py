"""psycopg2 under gevent: while a connection waits for PostgreSQL, other greenlets run, and a wait ends at its deadline.

libpq has no time limit for a statement, so a frozen server would hold its caller for ever. The wait callback, which psycopg2
calls whenever it has to wait, is the one place that can stop that: https://www.psycopg.org/docs/advanced.html#support-for-coroutine-libraries
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import gevent
import psycopg2
from psycopg2 import extensions

_deadline: ContextVar[float] = ContextVar("database_deadline", default=math.inf)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Everything that waits for PostgreSQL inside the block has to be over in that time, together."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_seconds() -> float | None:
    """Never negative; None outside of a `deadline` block."""
    moment = _deadline.get()
    return None if moment == math.inf else max(0.0, moment - time.monotonic())


def install() -> None:
    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:
        events = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        _wait_for(connection.fileno(), events)


def _wait_for(descriptor: int, events: int) -> None:
    poll = select.poll()  # gevent's, where it has patched the standard library
    poll.register(descriptor, events)
    seconds = remaining_seconds()
    if not poll.poll(None if seconds is None else math.ceil(seconds * 1000)):
        raise psycopg2.OperationalError("PostgreSQL did not answer in time")  # psycopg2 closes the connection


def resolve_host(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
    """libpq looks names up by itself, which stops the event loop; given an address beside the name it does not."""
    host = parameters.get("host", "")
    if host and not host.startswith("/") and "," not in host:
        try:
            with gevent.Timeout(remaining_seconds(), TimeoutError):
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise psycopg2.OperationalError("the database's host name can't be resolved") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        parameters["host"] = ",".join([host] * len(addresses))  # libpq tries one after the other
        parameters["hostaddr"] = ",".join(addresses)
