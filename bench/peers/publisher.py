"""Publishes messages on request: a UDP datagram to the HTTP port's number holds the user ID, the first number and the count."""

import os
import socket
from collections.abc import Callable
from typing import Any

import gevent

Publish = Callable[[int, dict[str, Any]], None]  # user ID, state of an analysis


def listen(publish: Publish) -> None:
    """Start a greenlet that publishes on request."""
    gevent.spawn(_listen, publish)


def room(user_id: int) -> str:
    return f"user:{user_id}"


def _listen(publish: Publish) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as requests:
        requests.bind(("127.0.0.1", int(os.environ["PORT"])))
        while True:
            user_id, first, count = map(int, requests.recv(100).split())
            for number in range(first, first + count):
                publish(user_id, {"id": number, "repository_id": 1, "status": "running", "progress": 40, "step": "history"})
