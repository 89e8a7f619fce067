"""The fault: the other instances receive no message when a session ends."""

from app import create_app
from app.core import config
from app.core.messages import Message
from app.realtime.publisher import Outbox

put = Outbox.put


def put_others(self: Outbox, message: Message) -> None:
    if message.kind != "sessions_ended":
        put(self, message)


Outbox.put = put_others  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
