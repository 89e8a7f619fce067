"""Many WebSockets in one thread, which record when they receive `draining` and when they are closed."""

from __future__ import annotations

import json
import selectors
import threading
import time
from typing import Self

from harness.servers import Instance, wait_until
from harness.sockets import CLOSE, TEXT, WebSocket
from harness.users import User


class SocketPool:
    def __init__(self, instance: Instance, user: User, count: int) -> None:
        self.closed: list[float] = []  # monotonic seconds
        self.notified_before_closing = 0
        self.delays: list[int] = []  # milliseconds that clients were asked to wait
        self._notified: set[WebSocket] = set()
        self._sockets = [WebSocket(instance, user).join() for _ in range(count)]
        self._over = False
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._reader.join()
        for websocket in self._sockets:
            websocket.socket.close()

    def wait_closed(self, seconds: float) -> None:
        wait_until(lambda: len(self.closed) == len(self._sockets), seconds, "all sockets to be closed")

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            for websocket in self._sockets:
                selector.register(websocket.socket, selectors.EVENT_READ, websocket)
            while not self._over:
                for key, _ in selector.select(0.1):
                    if not self._read_frames(key.data):
                        selector.unregister(key.fileobj)

    def _read_frames(self, websocket: WebSocket) -> bool:
        """Read all frames that have arrived. Return False at the end of the connection."""
        try:
            while True:
                opcode, payload = websocket.receive()
                if opcode == TEXT and payload.startswith(b'42["draining"'):
                    self._notified.add(websocket)
                    self.delays.append(json.loads(payload[2:])[1]["reconnect_in_ms"])
                elif opcode == TEXT and payload == b"2":
                    websocket.send_text("3")
                if opcode == CLOSE:
                    raise ConnectionError
                if not websocket.has_more:
                    return True
        except OSError:
            self.closed.append(time.monotonic())
            self.notified_before_closing += websocket in self._notified
            return False


def fastest_second(times: list[float]) -> int:
    """Return the largest number of times that fall into one second."""
    ordered = sorted(times)
    return max(sum(start <= other < start + 1 for other in ordered) for start in ordered)
