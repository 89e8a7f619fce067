"""Publishing on request: a datagram (UDP, at the number of the HTTP port) says to whom, the first one's number, and how many."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import gevent

Publish = Callable[[int, dict[str, Any]], None]  # user, the state of an analysis


def take(publish: Publish) -> None:
    """From now on, as a greenlet."""
    gevent.spawn(_take, publish)


def room(user_id: int) -> str:
    return f"user:{user_id}"


def _take(publish: Publish) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as orders:
        orders.bind(("127.0.0.1", int(os.environ["PORT"])))
        while True:
            user_id, first, count = map(int, orders.recv(100).split())
            for number in range(first, first + count):
                publish(user_id, {"id": number, "repository_id": 1, "status": "running", "progress": 40, "step": "history"})
