"""Socket.IO clients for tests: the official one, which records all events, and a WebSocket that can break every rule.

Also the balancer between clients and instances.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import engineio
import httpx
import psutil
import requests
import socketio
from engineio.packet import MESSAGE, Packet

from harness import web
from harness.processes import PATIENCE_SECONDS
from harness.servers import ROOT, Instance, Server, folder_open_to_all, wait_until
from harness.users import Reachable, User

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0
HANDSHAKE = "/socket.io/?EIO=4&transport="


class Listening(Protocol):
    @property
    def port(self) -> int: ...


class Behind(Reachable, Protocol):
    """An instance as the balancer sees it."""

    @property
    def environment(self) -> Mapping[str, str]: ...


class DeliveryFaults(NamedTuple):
    """How many notifications a client did not get, got twice, or got in the wrong order."""

    lost: int
    doubled: int
    disordered: int


NO_FAULTS = DeliveryFaults(0, 0, 0)


def delivery_faults(seqs: Sequence[int], due: int) -> DeliveryFaults:
    return DeliveryFaults(
        lost=len(set(range(1, due + 1)) - set(seqs)),
        doubled=len(seqs) - len(set(seqs)),
        disordered=sum(later < earlier for earlier, later in itertools.pairwise(seqs)),
    )


class _Engine(engineio.Client):  # type: ignore[misc] # no type hints
    """An Engine.IO client that reports messages in the order of the wire; the library handles each in its own thread."""

    on_message: Callable[[str], None]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.opened: list[Any] = []  # the library does not close them

    def _receive_packet(self, packet: Packet) -> None:
        if packet.packet_type == MESSAGE:
            self.on_message(packet.data)
        super()._receive_packet(packet)

    def _connect_websocket(self, *arguments: Any) -> Any:
        try:
            return super()._connect_websocket(*arguments)
        finally:
            self.opened += [self.ws] if self.ws else []


class _Client(socketio.Client):  # type: ignore[misc]
    def _engineio_client_class(self) -> type[_Engine]:
        return _Engine


class Listener:
    """The Python client as an application uses it: it remembers the last notification and reconnects by itself."""

    def __init__(self, user: User, *, after: int | None = None, transports: list[str] | None = None) -> None:
        self.user = user
        self.after = after
        self.transports = transports
        self.events: list[tuple[str, Any]] = []
        self.connect_errors: list[Any] = []
        self.connections = 0
        self._changed = threading.Lock()
        self._http = requests.Session()
        self.client = _Client(reconnection_delay=0.1, reconnection_delay_max=0.5, handle_sigint=False, http_session=self._http)
        self.client.on("connect", self._connected)
        self.client.on("connect_error", self.connect_errors.append)
        self.client.eio.on_message = self._on_message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.shutdown()
        self._http.close()
        for websocket in self.client.eio.opened:
            websocket.shutdown()

    def connect(self, server: Reachable, *, ready: bool = True, retry: bool = False, **headers: str) -> Self:
        """Connect and wait for `ready`. `retry`: try again until the server accepts the connection."""
        cookie = self.user.cookie_header
        self._http.headers["Cookie"] = cookie  # the client sends `headers` with its first request only
        self.client.connect(
            server.url,
            # A function, because the client removes the cookie from a dictionary at the first attempt.
            headers=lambda: {"Cookie": cookie, **headers},
            retry=retry,
            auth=lambda: {} if self.after is None else {"after": self.after},
            transports=self.transports,
            wait_timeout=PATIENCE_SECONDS,
        )
        if ready:
            wait_until(lambda: self.received("ready"), what="the event ready")
        return self

    def received(self, event: str) -> list[Any]:
        return [data for name, data in list(self.events) if name == event]

    @property
    def seqs(self) -> list[int]:
        return [item["seq"] for item in self.received("notification")]

    def call(self, event: str, data: Any) -> Any:
        """Emit an event and return its acknowledgement."""
        return self.client.call(event, data, timeout=PATIENCE_SECONDS)

    def wait_for(self, event: str, count: int = 1, timeout: float = PATIENCE_SECONDS) -> Any:
        """Wait for this many events with this name; return the latest."""
        return wait_until(lambda: self.received(event)[count - 1 :], timeout=timeout, what=f"{count} {event}")[-1]

    def _connected(self) -> None:
        self.connections += 1

    def _on_message(self, message: str) -> None:
        if not message.startswith("2"):
            return
        event, *arguments = json.loads(message[1:])
        data: Any = arguments[0] if len(arguments) == 1 else tuple(arguments)
        self.events.append((event, data))
        if event == "notification":
            self.after = data["seq"]
        elif event == "ready" and self.after is None:
            self.after = data["head"]


def receive_frame(exactly: Callable[[int], bytes]) -> tuple[int, bytes]:
    """Return opcode and payload of the next frame. `exactly`: reads the given number of bytes."""
    first, second = exactly(2)
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(exactly(2 if length == 126 else 8), "big")
    return first & 0x0F, exactly(length)


class WebSocket:
    """A WebSocket client that sends single frames (RFC 6455), directly or as the upgrade of a polling connection."""

    def __init__(
        self,
        server: Listening,
        user: User | None = None,
        query: str = "",
        receive_buffer: int = 0,
        headers: Mapping[str, str] | None = None,
        protocol: str = "HTTP/1.1",
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_SECONDS)
        self._read = b""
        fields = {
            "Host": f"127.0.0.1:{server.port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **({"Cookie": user.cookie_header} if user else {}),
            **(headers or {}),
        }
        lines = [f"GET {HANDSHAKE}websocket{query} {protocol}", *(f"{name}: {value}" for name, value in fields.items() if value)]
        try:
            self.socket.connect(("127.0.0.1", server.port))
            self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
            self.head = self._until(b"\r\n\r\n").decode()
        except BaseException:
            self.socket.close()
            raise
        self.status = int(self.head.split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def join(self) -> Self:
        """Connect to the Socket.IO namespace and wait for `ready`."""
        assert self.status == 101, self.head
        self.send(TEXT, b"40")
        self.await_text('42["ready"')
        return self

    def send(self, opcode: int, payload: bytes = b"", *, final: bool = True, compressed: bool = False) -> None:
        self.socket.sendall(self.frame(opcode, payload, final=final, compressed=compressed))

    def send_text(self, text: str) -> None:
        self.send(TEXT, text.encode())

    @staticmethod
    def frame(opcode: int, payload: bytes, *, final: bool = True, compressed: bool = False) -> bytes:
        """Return a frame. Its mask is zero, which leaves the payload unchanged."""
        first = (0x80 if final else 0) | (0x40 if compressed else 0) | opcode
        if len(payload) < 126:
            length = bytes([0x80 | len(payload)])
        elif len(payload) < 2**16:
            length = bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
        else:
            length = bytes([0x80 | 127]) + len(payload).to_bytes(8, "big")
        return bytes([first]) + length + bytes(4) + payload

    def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame. Raise OSError at the end of the connection."""
        return receive_frame(self._exactly)

    @property
    def has_more(self) -> bool:
        """Whether received bytes have not been read as frames yet."""
        return bool(self._read)

    def texts(self) -> Iterator[str]:
        """Yield text messages until the connection ends, and answer Engine.IO pings."""
        with suppress(OSError):
            while True:
                opcode, payload = self.receive()
                if opcode == CLOSE:
                    return
                if payload == b"2":
                    self.send_text("3")
                elif opcode == TEXT:
                    yield payload.decode()

    def await_text(self, beginning: str) -> str:
        for text in self.texts():
            if text.startswith(beginning):
                return text
        raise AssertionError(f"the connection ended before {beginning!r} arrived")

    def ends(self) -> bool:
        """Read until the server closes the connection and return True. Raise OSError after the timeout."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._read:
            self._more()
        found, _, self._read = self._read.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        parts = bytearray(self._read)
        while len(parts) < count:
            self._read = b""
            self._more()
            parts += self._read
        self._read = bytes(parts[count:])
        return bytes(parts[:count])

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the connection has ended")
        self._read += data


def memory(instance: Instance) -> int:
    """Return the resident memory of the worker in bytes."""
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in instance.worker_pids())


@contextmanager
def probed(instance: Instance) -> Iterator[list[float]]:
    """Measure the duration in seconds of many small requests during the block."""
    delays: list[float] = []
    over = threading.Event()
    prober = threading.Thread(target=_probe, args=(instance, delays, over))
    prober.start()
    try:
        yield delays
    finally:
        over.set()
        prober.join()


def _probe(instance: Instance, delays: list[float], over: threading.Event) -> None:
    with web.client(base_url=instance.url, timeout=PATIENCE_SECONDS) as client:
        while not over.wait(0.02):
            started = time.monotonic()
            assert client.get("/health/live").status_code == 200
            delays.append(time.monotonic() - started)


def render(*arguments: str) -> str:
    """Return the shipped nginx configuration."""
    return subprocess.run([ROOT / "deploy/nginx/render", *arguments], check=True, capture_output=True, text=True).stdout


class Balancer(Server):
    """nginx in front of instances, with the shipped configuration."""

    def __init__(self, instances: Sequence[Behind], *options: str) -> None:
        """`options`: further options of deploy/nginx/render."""
        super().__init__()
        self._names = [f"{one.environment['INSTANCE_ID']}={one.url.removeprefix('http://')}" for one in instances]
        self._options = options

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _create_folder(self) -> Path:
        """Create a folder that the user of the nginx workers can reach."""
        folder = Path(tempfile.mkdtemp(prefix="reporadar-", dir=folder_open_to_all()))
        folder.chmod(0o711)
        return folder

    def _command(self) -> list[str]:
        file = self.folder / "nginx.conf"
        file.write_text(render("--listen", f"127.0.0.1:{self.port}", *self._options, *self._names))
        return ["nginx", "-p", str(self.folder), "-c", str(file), "-e", "stderr", "-g", "daemon off;"]

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def _answers(self) -> bool:
        try:
            return bool(web.get(f"{self.url}/health/live", timeout=2).status_code)
        except httpx.TransportError:
            return False
