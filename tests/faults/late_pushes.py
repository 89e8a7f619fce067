"""The fault: every tenth published message is 200 ms late, so that later ones arrive first."""

import threading
from collections.abc import Sequence

from app import create_app
from app.core import config
from app.core.messages import Message
from app.realtime.publisher import RedisPublisher

DELAY_SECONDS = 0.2

publish = RedisPublisher.publish


def publish_late(self: RedisPublisher, messages: Sequence[Message]) -> None:
    for message in messages:
        if message.data["item"]["seq"] % 10 == 5:
            threading.Timer(DELAY_SECONDS, publish, (self, [message])).start()
        else:
            publish(self, [message])


RedisPublisher.publish = publish_late  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
