"""The fault: a socket is ready before its instance hears what is said to it, and Redis takes its time."""

from collections.abc import Iterator, Sequence

import gevent

from app import create_app
from app.core import config
from app.realtime import queue
from app.realtime.queue import RedisQueue

SUBSCRIBING_SECONDS = 0.2

commands = queue._commands


def late(name: str, rooms: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if rooms:
        gevent.sleep(SUBSCRIBING_SECONDS)
    return commands(name, rooms)


def at_once(self: RedisQueue, room: str) -> None:
    pass


queue._commands = late
RedisQueue.wait_until_joined = at_once  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
