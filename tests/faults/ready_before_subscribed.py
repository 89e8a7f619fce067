"""The fault: a socket becomes ready before its instance is subscribed to the room of the user, and subscribing is slow."""

from collections.abc import Iterator, Sequence

import gevent

from app import create_app
from app.core import config
from app.realtime import queue
from app.realtime.queue import RedisQueue

SUBSCRIBE_SECONDS = 0.2

commands = queue._commands


def slow_commands(name: str, rooms: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if rooms:
        gevent.sleep(SUBSCRIBE_SECONDS)
    return commands(name, rooms)


def return_at_once(self: RedisQueue, room: str) -> None:
    pass


queue._commands = slow_commands
RedisQueue.wait_until_joined = return_at_once  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
