"""Socket.IO clients that hear what another instance publishes on request, from a process of its own.

python -m bench.hear PORT COOKIE USER_ID MEMBERS ORDERS WORK SECONDS

They open so many sockets at PORT and say `open`; with a line of input they begin to have messages published by the peer that
takes orders at the UDP port ORDERS. `throughput`: as many as there can be with WINDOW of them on their way. `pace:N`: N a second.
Then {"messages", "lost", "seconds", "latencies_ms": [p50, p99]} is printed as JSON: of what the slowest of them has heard.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time

from bench.client import message, upgrade

WINDOW, CHUNK = 48, 12  # messages; a client of RepoRadar that has 64 waiting goes without
TICK_SECONDS = 0.005
SETTLE_SECONDS = 0.3  # for what else comes in the beginning
LAST_SECONDS = 2.0  # for what is on its way
OPENED, PING, CONNECTED = b"0", b"2", b"40"  # Engine.IO and Socket.IO packets
ANALYSIS = b'42["analysis",{"id":'


class Member(asyncio.Protocol):
    """One socket. It counts what it hears, and calls when that is more."""

    def __init__(self, room: str, orders: Orders) -> None:
        self._room = room
        self._orders = orders
        self._received = b""
        self.heard = 0
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
        self._take_frames()

    def close(self) -> None:
        self._transport.close()

    def _take_frames(self) -> None:
        buffer, at, before = self._received, 0, self.heard
        while len(buffer) - at >= 2:
            length, start = buffer[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(buffer[at + 2 : at + 4]), at + 4
            if len(buffer) < start + length:
                break
            at = start + length
            if buffer.startswith(ANALYSIS, start):
                self._orders.arrived(buffer, start + len(ANALYSIS))
                self.heard += 1
            else:
                self._answer(buffer[start:at])
        self._received = buffer[at:]
        if self.heard > before:
            self._orders.more_heard()

    def _answer(self, packet: bytes) -> None:
        if packet.startswith(OPENED):
            self._send(b'40{"room":"' + self._room.encode() + b'"}')  # the peers put it where it says
        elif packet.startswith(CONNECTED) and not self.joined.done():
            self.joined.set_result(None)
        elif packet == PING:
            self._send(b"3")

    def _send(self, text: bytes) -> None:
        self._transport.write(message(text))


class Orders:
    """What the publisher is asked for, and when that arrived."""

    def __init__(self, port: int, user_id: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._user_id = user_id
        self.ordered = 0
        self.window = 0  # how many may be on their way
        self.members: list[Member] = []
        self.latencies: list[float] = []
        self._ordered_at: dict[int, float] = {}

    @property
    def heard(self) -> int:
        return min(member.heard for member in self.members)

    def order(self, count: int) -> None:
        if not self.window:
            self._ordered_at |= dict.fromkeys(range(self.ordered, self.ordered + count), time.perf_counter())
        self._socket.send(f"{self._user_id} {self.ordered} {count}".encode())
        self.ordered += count

    def arrived(self, buffer: bytes, at: int) -> None:
        if self._ordered_at:
            number = int(buffer[at : buffer.index(b",", at)])
            if ordered_at := self._ordered_at.pop(number, None):
                self.latencies.append(time.perf_counter() - ordered_at)

    def more_heard(self) -> None:
        if self.window:
            heard = self.heard
            while self.ordered + CHUNK <= heard + self.window:
                self.order(CHUNK)

    async def last_ones(self) -> None:
        deadline = time.perf_counter() + LAST_SECONDS
        while self.heard < self.ordered and time.perf_counter() < deadline:
            await asyncio.sleep(TICK_SECONDS)


async def throughput(orders: Orders, seconds: float) -> None:
    orders.window = WINDOW
    orders.more_heard()
    await asyncio.sleep(seconds)
    orders.window = 0


async def pace(orders: Orders, per_second: float, seconds: float) -> None:
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        if due := int(passed * per_second) - orders.ordered:
            orders.order(due)
        await asyncio.sleep(TICK_SECONDS / 2)


async def run(port: int, cookie: str, user_id: str, members: int, orders_port: int, work: str, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    orders = Orders(orders_port, user_id)
    for _ in range(members):
        _, member = await loop.create_connection(lambda: Member(f"user:{user_id}", orders), "127.0.0.1", port)
        member.upgrade(port, cookie)
        await asyncio.wait_for(member.joined, 10)
        orders.members.append(member)
    await asyncio.sleep(SETTLE_SECONDS)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    began = time.perf_counter()
    if work == "throughput":
        await throughput(orders, seconds)
    elif per_second := float(work.removeprefix("pace:")):
        await pace(orders, per_second, seconds)
    else:
        await asyncio.sleep(seconds)
    await orders.last_ones()
    percentiles = statistics.quantiles(orders.latencies, n=100) if len(orders.latencies) > 1 else [0.0] * 99
    found = {
        "messages": orders.heard,
        "lost": orders.ordered - orders.heard,
        "seconds": time.perf_counter() - began,
        "latencies_ms": [round(percentiles[share] * 1000, 3) for share in (49, 98)],
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    for member in orders.members:
        member.close()


def main() -> None:
    port, cookie, user_id, members, orders_port, work, seconds = sys.argv[1:]
    asyncio.run(run(int(port), cookie, user_id, int(members), int(orders_port), work, float(seconds)))


if __name__ == "__main__":
    main()
