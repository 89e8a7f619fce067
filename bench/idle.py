"""A process with idle Socket.IO clients over WebSocket: `python -m bench.idle PORT COOKIE COUNT`.

It prints `open` when COUNT sockets are open, and closes them when its standard input ends. Then it prints `closed N`, the number
of sockets that the server had already closed with a close frame.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from harness.raw_websocket import message, upgrade

CONCURRENCY = 20  # handshakes, each of which reads the session
CLOSE = 0x88  # first byte of a frame, RFC 6455
OPENED, PING, PONG, CONNECT, CONNECTED = b"0", b"2", b"3", b"40", b"40"  # Engine.IO and Socket.IO packets


class IdleClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.was_closed = False

    @classmethod
    async def open(cls, port: int, cookie: str) -> IdleClient:
        """Return a client when the server has accepted its connection."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        await client._upgrade(port, cookie)
        await client._receive_until(OPENED)
        client._send(CONNECT)
        await client._receive_until(CONNECTED)
        return client

    async def stay(self) -> None:
        """Answer pings until the connection ends."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not self.was_closed:
                if await self._receive() == PING:
                    self._send(PONG)
            self.close()

    def close(self) -> None:
        self._writer.write(bytes([CLOSE, 0x80, 0, 0, 0, 0]))
        self._writer.close()

    async def _upgrade(self, port: int, cookie: str) -> None:
        self._writer.write(upgrade(port, cookie))
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(answer.partition(b"\r\n")[0].decode())

    async def _receive_until(self, start: bytes) -> None:
        while not (await self._receive()).startswith(start):
            pass

    async def _receive(self) -> bytes:
        """Return the payload of a frame. Frames of these servers are small and not masked."""
        first, length = await self._reader.readexactly(2)
        self.was_closed = first == CLOSE
        if length == 126:
            length = int.from_bytes(await self._reader.readexactly(2))
        return await self._reader.readexactly(length)

    def _send(self, text: bytes) -> None:
        self._writer.write(message(text))


async def open_all(port: int, cookie: str, count: int) -> list[IdleClient]:
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def open_one() -> IdleClient:
        async with semaphore:
            return await IdleClient.open(port, cookie)

    return list(await asyncio.gather(*(open_one() for _ in range(count))))


async def run(port: int, cookie: str, count: int) -> None:
    clients = await open_all(port, cookie, count)
    staying = [asyncio.ensure_future(client.stay()) for client in clients]
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    sys.stdout.write(f"closed {sum(client.was_closed for client in clients)}\n")
    for client in clients:
        client.close()
    for task in staying:
        task.cancel()


def main() -> None:
    port, cookie, count = sys.argv[1:]
    asyncio.run(run(int(port), cookie, int(count)))


if __name__ == "__main__":
    main()
