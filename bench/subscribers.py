"""A process with Socket.IO clients that receive what another instance publishes on request.

python -m bench.subscribers PORT COOKIE USER_ID SUBSCRIBERS PUBLISHER_PORT WORK SECONDS

The process opens SUBSCRIBERS sockets at PORT and prints `open`. After a line of input it requests messages from the publisher at
UDP port PUBLISHER_PORT: with WORK `throughput` as many as possible with WINDOW messages in flight, with `pace:N` N per second.
Then it prints {"messages", "lost", "seconds", "latencies_ms": [p50, p99]} as JSON, counted at the slowest subscriber.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time

from harness.raw_websocket import message, upgrade

WINDOW, CHUNK = 48, 12  # messages; RepoRadar drops messages to a client whose queue holds 64
TICK_SECONDS = 0.005
SETTLE_SECONDS = 0.3  # for further packets after the connection
DRAIN_SECONDS = 2.0  # for messages in flight
OPENED, PING, CONNECTED = b"0", b"2", b"40"  # Engine.IO and Socket.IO packets
ANALYSIS = b'42["analysis",{"id":'


class Subscriber(asyncio.Protocol):
    """One socket, which counts its messages and reports them to the publisher's client."""

    def __init__(self, room: str, publisher: PublisherClient) -> None:
        self._room = room
        self._publisher = publisher
        self._received = b""
        self.received = 0
        self.joined = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def upgrade(self, port: int, cookie: str) -> None:
        self._transport.write(upgrade(port, cookie))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.joined.done() and self._received.startswith(b"HTTP/1.1 "):
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(head.partition(b"\r\n")[0].decode())
            self._received = rest
        self._parse_frames()

    def close(self) -> None:
        self._transport.close()

    def _parse_frames(self) -> None:
        buffer, at, before = self._received, 0, self.received
        while len(buffer) - at >= 2:
            length, start = buffer[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(buffer[at + 2 : at + 4]), at + 4
            if len(buffer) < start + length:
                break
            at = start + length
            if buffer.startswith(ANALYSIS, start):
                self._publisher.arrived(buffer, start + len(ANALYSIS))
                self.received += 1
            else:
                self._answer(buffer[start:at])
        self._received = buffer[at:]
        if self.received > before:
            self._publisher.on_received()

    def _answer(self, packet: bytes) -> None:
        if packet.startswith(OPENED):
            self._send(b'40{"room":"' + self._room.encode() + b'"}')  # the peers join this room
        elif packet.startswith(CONNECTED) and not self.joined.done():
            self.joined.set_result(None)
        elif packet == PING:
            self._send(b"3")

    def _send(self, text: bytes) -> None:
        self._transport.write(message(text))


class PublisherClient:
    """Requests messages from the publisher and measures when they arrive."""

    def __init__(self, port: int, user_id: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._user_id = user_id
        self.requested = 0
        self.window = 0  # messages that may be in flight
        self.subscribers: list[Subscriber] = []
        self.latencies: list[float] = []
        self._requested_at: dict[int, float] = {}

    @property
    def received(self) -> int:
        return min(subscriber.received for subscriber in self.subscribers)

    def request(self, count: int) -> None:
        if not self.window:
            self._requested_at |= dict.fromkeys(range(self.requested, self.requested + count), time.perf_counter())
        self._socket.send(f"{self._user_id} {self.requested} {count}".encode())
        self.requested += count

    def arrived(self, buffer: bytes, at: int) -> None:
        if self._requested_at:
            number = int(buffer[at : buffer.index(b",", at)])
            if requested_at := self._requested_at.pop(number, None):
                self.latencies.append(time.perf_counter() - requested_at)

    def on_received(self) -> None:
        if self.window:
            received = self.received
            while self.requested + CHUNK <= received + self.window:
                self.request(CHUNK)

    async def wait_for_messages_in_flight(self) -> None:
        deadline = time.perf_counter() + DRAIN_SECONDS
        while self.received < self.requested and time.perf_counter() < deadline:
            await asyncio.sleep(TICK_SECONDS)


async def throughput(publisher: PublisherClient, seconds: float) -> None:
    publisher.window = WINDOW
    publisher.on_received()
    await asyncio.sleep(seconds)
    publisher.window = 0


async def pace(publisher: PublisherClient, per_second: float, seconds: float) -> None:
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        if due := int(passed * per_second) - publisher.requested:
            publisher.request(due)
        await asyncio.sleep(TICK_SECONDS / 2)


async def run(port: int, cookie: str, user_id: str, count: int, publisher_port: int, work: str, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    publisher = PublisherClient(publisher_port, user_id)
    for _ in range(count):
        _, subscriber = await loop.create_connection(lambda: Subscriber(f"user:{user_id}", publisher), "127.0.0.1", port)
        subscriber.upgrade(port, cookie)
        await asyncio.wait_for(subscriber.joined, 10)
        publisher.subscribers.append(subscriber)
    await asyncio.sleep(SETTLE_SECONDS)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    started = time.perf_counter()
    if work == "throughput":
        await throughput(publisher, seconds)
    elif per_second := float(work.removeprefix("pace:")):
        await pace(publisher, per_second, seconds)
    else:
        await asyncio.sleep(seconds)
    await publisher.wait_for_messages_in_flight()
    percentiles = statistics.quantiles(publisher.latencies, n=100) if len(publisher.latencies) > 1 else [0.0] * 99
    found = {
        "messages": publisher.received,
        "lost": publisher.requested - publisher.received,
        "seconds": time.perf_counter() - started,
        "latencies_ms": [round(percentiles[share] * 1000, 3) for share in (49, 98)],
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    for subscriber in publisher.subscribers:
        subscriber.close()


def main() -> None:
    port, cookie, user_id, count, publisher_port, work, seconds = sys.argv[1:]
    asyncio.run(run(int(port), cookie, user_id, int(count), int(publisher_port), work, float(seconds)))


if __name__ == "__main__":
    main()
