"""Official Socket.IO clients for tests, which write down everything that they are told."""

from __future__ import annotations

import threading
from typing import Any, Self

import socketio

from tests.functional.users import User
from tests.servers import Instance, wait_until


class Listener:
    """The Python client, as an application would use it: it remembers the last notification and comes back by itself."""

    def __init__(self, user: User, *, after: int | None = None, transports: list[str] | None = None) -> None:
        self.user = user
        self.after = after
        self.transports = transports
        self.events: list[tuple[str, Any]] = []
        self.connect_errors: list[Any] = []
        self.connections = 0
        self._changed = threading.Lock()
        self.client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=0.5, handle_sigint=False)
        self.client.on("connect", self._connected)
        self.client.on("connect_error", self.connect_errors.append)
        self.client.on("*", self._heard)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.shutdown()

    def connect(self, instance: Instance, *, ready: bool = True) -> Self:
        self.client.connect(
            instance.url,
            headers={"Cookie": f"session={self.user.cookie}"},
            auth=lambda: {} if self.after is None else {"after": self.after},
            transports=self.transports,
            wait_timeout=10,
        )
        if ready:
            wait_until(lambda: self.heard("ready"), what="the event ready")
        return self

    def heard(self, event: str) -> list[Any]:
        return [data for name, data in list(self.events) if name == event]

    @property
    def seqs(self) -> list[int]:
        return [item["seq"] for item in self.heard("notification")]

    def ask(self, event: str, data: Any) -> Any:
        """The acknowledgement."""
        return self.client.call(event, data, timeout=10)

    def wait_for(self, event: str, count: int = 1, timeout: float = 10) -> Any:
        """The latest such event, when there have been so many."""
        return wait_until(lambda: self.heard(event)[count - 1 :], timeout=timeout, what=f"{count} {event}")[-1]

    def _connected(self) -> None:
        self.connections += 1

    def _heard(self, event: str, data: Any = None) -> None:
        self.events.append((event, data))
        if event == "notification":
            self.after = data["seq"]
        elif event == "ready" and self.after is None:
            self.after = data["head"]
