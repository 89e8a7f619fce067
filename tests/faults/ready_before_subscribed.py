"""The fault: a socket becomes ready before its instance is subscribed to the room of the user, and subscribing is slow."""

from collections.abc import Iterator, Sequence

import gevent

from app import create_app
from app.core import config
from app.realtime import message_queue
from app.realtime.message_queue import RedisMessageQueue

SUBSCRIBE_SECONDS = 0.2

commands = message_queue._commands


def slow_commands(name: str, rooms: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    if rooms:
        gevent.sleep(SUBSCRIBE_SECONDS)
    return commands(name, rooms, size)


def return_at_once(self: RedisMessageQueue, room: str) -> None:
    pass


message_queue._commands = slow_commands
RedisMessageQueue.wait_until_joined = return_at_once  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
