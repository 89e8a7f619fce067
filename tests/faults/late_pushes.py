"""The fault: every tenth message between instances takes 200 ms, while later ones overtake it."""

import threading
from collections.abc import Sequence

from app import create_app
from app.core import config
from app.core.messages import Message
from app.realtime.publisher import RedisPublisher

LATE_SECONDS = 0.2

publish = RedisPublisher.publish


def late(self: RedisPublisher, messages: Sequence[Message]) -> None:
    for message in messages:
        if message.data["item"]["seq"] % 10 == 5:
            threading.Timer(LATE_SECONDS, publish, (self, [message])).start()
        else:
            publish(self, [message])


RedisPublisher.publish = late  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
