"""Socket.IO clients for tests: the official one, which writes down everything that it is told, and a WebSocket by hand, which
keeps to no rule. And what stands between clients and instances: a balancer."""

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

from harness.servers import ROOT, Instance, Server, folder_open_to_all, wait_until
from harness.users import Reachable, User

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0
HANDSHAKE = "/socket.io/?EIO=4&transport="


class Listening(Protocol):
    @property
    def port(self) -> int: ...


class Behind(Listening, Protocol):
    """What a balancer has to know about an instance."""

    @property
    def environment(self) -> Mapping[str, str]: ...


class Judgement(NamedTuple):
    """Of the numbers that a client was sent, where 1, 2, 3, ... were due."""

    lost: int
    doubled: int
    disordered: int


FLAWLESS = Judgement(0, 0, 0)


def judge(seqs: Sequence[int], due: int) -> Judgement:
    return Judgement(
        lost=len(set(range(1, due + 1)) - set(seqs)),
        doubled=len(seqs) - len(set(seqs)),
        disordered=sum(later < earlier for earlier, later in itertools.pairwise(seqs)),
    )


class _Engine(engineio.Client):  # type: ignore[misc] # no type hints
    """Tells of messages as they come on the wire: the library gives each a thread of its own, which overtake each other."""

    overhear: Callable[[str], None]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.opened: list[Any] = []  # which it forgets to close

    def _receive_packet(self, packet: Packet) -> None:
        if packet.packet_type == MESSAGE:
            self.overhear(packet.data)
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
    """The Python client, as an application would use it: it remembers the last notification and comes back by itself."""

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
        self.client.eio.overhear = self._overhear

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.shutdown()
        self._http.close()
        for websocket in self.client.eio.opened:
            websocket.shutdown()

    def connect(self, server: Reachable, *, ready: bool = True, retry: bool = False, **headers: str) -> Self:
        """`retry`: goes on until it is let in."""
        cookie = self.user.cookie
        self.client.connect(
            server.url,
            # Anew for each attempt: the client takes the cookie out of what it is given once.
            headers=lambda: {"Cookie": f"session={cookie}", **headers},
            retry=retry,
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

    def _overhear(self, message: str) -> None:
        if not message.startswith("2"):
            return
        event, data = json.loads(message[1:])
        self.events.append((event, data))
        if event == "notification":
            self.after = data["seq"]
        elif event == "ready" and self.after is None:
            self.after = data["head"]


def receive_frame(exactly: Callable[[int], bytes]) -> tuple[int, bytes]:
    """Opcode and payload of what a server sends. `exactly`: returns so many of the bytes that come."""
    first, second = exactly(2)
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(exactly(2 if length == 126 else 8), "big")
    return first & 0x0F, exactly(length)


class WebSocket:
    """RFC 6455 by hand, frame by frame, on a handshake of its own or as the upgrade of a polling connection."""

    def __init__(
        self,
        server: Listening,
        user: User | None = None,
        query: str = "",
        receive_buffer: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", server.port))
        self._read = b""
        fields = {
            "Host": f"127.0.0.1:{server.port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **({"Cookie": f"session={user.cookie}"} if user else {}),
            **(headers or {}),
        }
        lines = [f"GET {HANDSHAKE}websocket{query} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        try:
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
        """Becomes a Socket.IO socket."""
        assert self.status == 101, self.head
        self.send(TEXT, b"40")
        self.await_text('42["ready"')
        return self

    def send(self, opcode: int, payload: bytes = b"", *, final: bool = True, compressed: bool = False) -> None:
        self.socket.sendall(self.frame(opcode, payload, final=final, compressed=compressed))

    def say(self, text: str) -> None:
        self.send(TEXT, text.encode())

    @staticmethod
    def frame(opcode: int, payload: bytes, *, final: bool = True, compressed: bool = False) -> bytes:
        """Masked with zeros, which leaves the payload as it is."""
        first = (0x80 if final else 0) | (0x40 if compressed else 0) | opcode
        if len(payload) < 126:
            length = bytes([0x80 | len(payload)])
        elif len(payload) < 2**16:
            length = bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
        else:
            length = bytes([0x80 | 127]) + len(payload).to_bytes(8, "big")
        return bytes([first]) + length + bytes(4) + payload

    def receive(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame; OSError at the end of the connection."""
        return receive_frame(self._exactly)

    @property
    def has_more(self) -> bool:
        """Something of what has come is not received yet."""
        return bool(self._read)

    def texts(self) -> Iterator[str]:
        """Until the connection ends; engine pings are answered."""
        with suppress(OSError):
            while True:
                opcode, payload = self.receive()
                if opcode == CLOSE:
                    return
                if payload == b"2":
                    self.say("3")
                elif opcode == TEXT:
                    yield payload.decode()

    def await_text(self, beginning: str) -> str:
        for text in self.texts():
            if text.startswith(beginning):
                return text
        raise AssertionError(f"the connection ended before there was {beginning!r}")

    def ends(self) -> bool:
        """Whether the other side ends the connection, whatever it still sends; an OSError when it does not in time."""
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
    """Bytes that its worker has in use."""
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in instance.worker_pids())


@contextmanager
def probed(instance: Instance) -> Iterator[list[float]]:
    """The seconds that each of many small requests took during the block."""
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
    with httpx.Client(base_url=instance.url, trust_env=False, timeout=30) as client:
        while not over.wait(0.02):
            started = time.monotonic()
            assert client.get("/health/live").status_code == 200
            delays.append(time.monotonic() - started)


def render(*arguments: str) -> str:
    """nginx's configuration, as it is shipped."""
    return subprocess.run([ROOT / "deploy/nginx/render", *arguments], check=True, capture_output=True, text=True).stdout


class Balancer(Server):
    """nginx in front of instances, with the configuration that is shipped."""

    def __init__(self, instances: Sequence[Behind], *options: str) -> None:
        """`options`: further ones for deploy/nginx/render."""
        super().__init__()
        self._names = [f"{instance.environment['INSTANCE_ID']}=127.0.0.1:{instance.port}" for instance in instances]
        self._options = options

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _create_folder(self) -> Path:
        """As root, nginx works as another user, who has to get at what it keeps there."""
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
            return bool(httpx.get(f"{self.url}/health/live", timeout=2, trust_env=False).status_code)
        except httpx.TransportError:
            return False
