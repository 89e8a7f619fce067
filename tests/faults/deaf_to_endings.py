"""The fault: no instance hears from another one that a session has ended."""

from typing import Any

from app import config, create_app
from app.realtime.queue import RedisPublisher

publish = RedisPublisher.send


def forgetful(self: RedisPublisher, data: dict[str, Any]) -> None:
    if data["method"] != "sessions_ended":
        publish(self, data)


RedisPublisher.send = forgetful  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
