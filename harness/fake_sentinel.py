"""A stand-in for a sentinel: it names the primary that a test sets, hangs, or refuses."""

from __future__ import annotations

import socketserver
import threading
from typing import Any, Self

SERVICE = "reporadar"


class FakeSentinel:
    """Answers the two questions of a client. `hangs`: it accepts connections and answers nothing."""

    def __init__(self, primary_port: int, epoch: int = 1) -> None:
        self.primary_port = primary_port
        self.epoch = epoch
        self.hangs = False
        self.questions = 0
        self.passwords: list[str] = []
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, words: list[str]) -> bytes | None:
        if self.hangs:
            return None
        match words:
            case ["AUTH", *credentials]:
                self.passwords.append(" ".join(credentials))
            case ["SENTINEL", "MASTER", service] if service == SERVICE:
                self.questions += 1
                return _array("name", service, "config-epoch", str(self.epoch))
            case ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service] if service == SERVICE:
                return _array("127.0.0.1", str(self.primary_port))
            case ["SENTINEL", "MASTER", _]:
                return b"-ERR No such master with that name\r\n"
            case ["SENTINEL", *_]:
                return b"*-1\r\n"
        return b"+OK\r\n"


def _array(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)


def _handler(sentinel: FakeSentinel) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while words := self._read_command():
                answer = sentinel.answer(words)
                if answer is not None:
                    self.wfile.write(answer)

        def _read_command(self) -> list[str]:
            header: Any = self.rfile.readline()
            count = int(header[1:] or 0)
            words = []
            for _ in range(count):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2].decode())
            return words

    return Handler
