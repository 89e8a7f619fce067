"""A TCP proxy whose target can change, like the address of a managed Redis after a failover."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress
from typing import Self


class Redirection:
    """Forwards new connections to `target`, a port on loopback. Open connections stay with the target that they had."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._stack = ExitStack()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._stack.callback(_close, self._listener)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for source, sink in ((client, server), (server, client)):
                    self._stack.callback(_close, source)
                    threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while received := source.recv(65536):
            sink.sendall(received)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
