"""The fault: sockets are sent each published notification at once, whatever its number, as Socket.IO does by itself."""

from typing import Any

from app import create_app
from app.core import config
from app.notifications.delivery import NotificationDelivery


def deliver(self: NotificationDelivery, payload: dict[str, Any]) -> None:
    self._send(payload)


def catch_up(self: NotificationDelivery, head: int) -> None:
    pass


NotificationDelivery.deliver, NotificationDelivery.catch_up = deliver, catch_up  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
