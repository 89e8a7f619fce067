"""The fault: no instance hears from another one that a session has ended."""

from typing import Any

from app import config, create_app
from app.realtime.queue import RedisQueue

post = RedisQueue._post


def forgetful(self: RedisQueue, kind: str, message: dict[str, Any], room: str) -> None:
    if kind != "sessions_ended":
        post(self, kind, message, room)


RedisQueue._post = forgetful  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
