"""The fault: no instance hears from another one that a session has ended."""

from app import create_app
from app.core import config
from app.core.messages import Message
from app.realtime.publisher import Outbox

put = Outbox.put


def forgetful(self: Outbox, message: Message) -> None:
    if message.kind != "sessions_ended":
        put(self, message)


Outbox.put = forgetful  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
