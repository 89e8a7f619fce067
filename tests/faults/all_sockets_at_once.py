"""The fault: a stopping instance closes all its sockets at once."""

from typing import Any

from app import create_app
from app.core import config
from app.realtime.connections import Connections

disconnect_clients = Connections.disconnect_clients


def disconnect_at_once(self: Connections, *arguments: Any, **options: Any) -> int:
    self._drain_rate = 1_000_000
    return disconnect_clients(self, *arguments, **options)


Connections.disconnect_clients = disconnect_at_once  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
