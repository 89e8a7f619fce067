"""psycopg2 under gevent: other greenlets run while a connection waits for PostgreSQL, and each wait has a deadline.

libpq has no client-side statement timeout, so a frozen server would block its caller for ever. Only psycopg2's wait callback can
limit the wait: https://www.psycopg.org/docs/advanced.html#support-for-coroutine-libraries
"""

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
    """Limit the total time that the block may wait for PostgreSQL."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_seconds() -> float | None:
    """Return the time until the deadline, never negative; None outside of a `deadline` block."""
    ends_at = _deadline.get()
    return None if ends_at == math.inf else max(0.0, ends_at - time.monotonic())


def install() -> None:
    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:
        events = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        _wait_for(connection.fileno(), events)


def _wait_for(descriptor: int, events: int) -> None:
    poll = select.poll()  # cooperative if gevent has patched the standard library
    poll.register(descriptor, events)
    seconds = remaining_seconds()
    if not poll.poll(None if seconds is None else math.ceil(seconds * 1000)):
        raise psycopg2.OperationalError("PostgreSQL did not answer in time")  # psycopg2 closes the connection


def resolve_host(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
    """Resolve the host before libpq does, which would block the event loop. libpq uses `hostaddr` if it is given."""
    host = parameters.get("host", "")
    if host and not host.startswith("/") and "," not in host:
        try:
            with gevent.Timeout(remaining_seconds(), TimeoutError):
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise psycopg2.OperationalError("no time was left to resolve the database's host name") from error
        except OSError as error:
            raise psycopg2.OperationalError("the database's host name can't be resolved") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        parameters["host"] = ",".join([host] * len(addresses))  # libpq tries them in order
        parameters["hostaddr"] = ",".join(addresses)
