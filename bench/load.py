"""A process that generates HTTP load: each keep-alive connection sends its next request after the response to the previous one.

python -m bench.load PORT PATH COOKIE CONNECTIONS SECONDS  prints {"requests", "failed", "latencies_ms": [p50, p99]} as JSON.
"""

import asyncio
import json
import statistics
import sys
import time


class Client(asyncio.Protocol):
    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self._request = request
        self._latencies = latencies
        self._received = b""
        self._sent_at = 0.0
        self._is_over = False
        self.failed = 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _length(head):
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        self.failed += not head.startswith(b"HTTP/1.1 200")
        self._received = b""
        if self._is_over:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        self.failed += not self._is_over
        self.closed.set_result(None)

    def finish(self) -> None:
        """Close the connection after the next response."""
        self._is_over = True

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def load(port: int, path: str, cookie: str, connections: int, seconds: float) -> dict[str, object]:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n".encode()
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(request, latencies), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    for client in clients:
        client.finish()
    await asyncio.gather(*(client.closed for client in clients))
    percentiles = statistics.quantiles(latencies, n=100)
    return {
        "requests": len(latencies),
        "failed": sum(client.failed for client in clients),
        "latencies_ms": [round(percentiles[share] * 1000, 2) for share in (49, 98)],
    }


def main() -> None:
    port, path, cookie, connections, seconds = sys.argv[1:]
    found = asyncio.run(load(int(port), path, cookie, int(connections), float(seconds)))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
