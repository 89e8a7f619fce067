"""One Redis connection that all greenlets of a process share, for the few commands that nearly every request needs.

Commands of one event loop iteration are sent together, and replies are matched to callers in order. The benefit over redis-py is
CPU: reading a session takes 4 us with 32 concurrent requests and 40 us alone, instead of 75 and 115 us. `python -m
bench.redis_commands` measures it. redis-py opens the connection and executes everything else, and SHARED_REDIS_CONNECTION=false
replaces this module by its connection pool (`client.PooledRedis`).

After a timeout the connection is closed and all commands in flight fail, because a late reply would be taken for the reply to the
next command. Commands are never retried, since Redis may have executed them. Only commands that a node of a Redis Cluster
redirects are sent again: it has not executed them.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import hiredis
import redis
from gevent.hub import Waiter, get_hub
from redis._parsers.base import BaseParser

from app.redis.client import RedisCommands, is_cluster
from app.redis.cluster import REDIRECTS, ClusterClient, NodeAddress, slot_of
from app.redis.failover import AbortableConnection

MAX_IN_FLIGHT = 5_000  # commands; reached only in an outage, when more waiting greenlets would fill the memory
CONNECT_SECONDS = 1.3  # for TCP, TLS and authentication together; each of these steps has the client's timeout as well
CHECKS_PER_TIMEOUT = 10
BUFFER_BYTES = 65_536

_INCOMPLETE = object()
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ, _WRITE = 1, 2  # event masks of libev


def share_connection(client: redis.Redis) -> RedisCommands:
    """Return the commands of a client over connections that all greenlets share: one to a server, one to each master."""
    return MultiplexedCluster(client) if is_cluster(client) else MultiplexedRedis(client)


class MultiplexedRedis(RedisCommands):
    """Belongs to one process and its main thread. Connects with the first command and again after the connection was lost."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._connection: _SharedConnection | None = None
        self._attempt: gevent.Greenlet | None = None

    def execute(self, *command: Any) -> Any:
        return _wait_for_reply((self._connection or self._connect()).send(command))

    def execute_all(self, *commands: Sequence[Any]) -> list[Any]:
        return [_wait_for_reply(waiter) for waiter in self.send_all(*commands)]

    def send_all(self, *commands: Sequence[Any]) -> list[Waiter]:
        """Send commands directly one after the other. The result is for `_wait_for_reply`."""
        connection = self._connection or self._connect()
        return [connection.send(command) for command in commands]

    def drop(self) -> None:
        if self._connection:
            self._connection.close(redis.InvalidResponse("unexpected reply from Redis"))

    def close(self) -> None:
        if self._attempt:
            self._attempt.kill()
        if self._connection:
            self._connection.close(redis.ConnectionError("Connection closed."))

    def _connect(self) -> _SharedConnection:
        """Callers that arrive during an attempt to connect share its outcome."""
        if self._attempt is None:
            self._attempt = gevent.spawn(self._try_to_connect)
        error = self._attempt.get()
        if isinstance(error, redis.RedisError):
            raise _copy(error)
        if self._connection is None:
            raise redis.ConnectionError("Connection lost.")
        return self._connection

    def _try_to_connect(self) -> redis.RedisError | None:
        try:
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            with gevent.Timeout(CONNECT_SECONDS, redis.TimeoutError("Timeout connecting to server")):
                connection.connect()
            self._connection = _SharedConnection(connection, self._on_close)
        except redis.RedisError as error:
            return error
        finally:
            self._attempt = None
        return None

    def _on_close(self) -> None:
        self._connection = None


class MultiplexedCluster(RedisCommands):
    """One shared connection to each master of a Redis Cluster. The loss of one fails only the commands for that master."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._topology = client.topology
        self._nodes: dict[NodeAddress, MultiplexedRedis] = {}

    def execute(self, *command: Any) -> Any:
        def send(address: NodeAddress, asking: bool) -> Any:
            node = self._node(address)
            return node.execute_all(("ASKING",), command)[1] if asking else node.execute(*command)

        return self._topology.run(slot_of(command), send)

    def execute_all(self, *commands: Sequence[Any]) -> list[Any]:
        addresses = [self._topology.owner(slot_of(command)) for command in commands]
        waiters = []
        for address, command in zip(addresses, commands, strict=True):
            with self._topology.refreshing_after_errors(address):
                waiters += self._node(address).send_all(command)
        return [self._receive(*one) for one in zip(addresses, commands, waiters, strict=True)]

    def drop(self) -> None:
        for node in list(self._nodes.values()):
            node.drop()

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def _node(self, address: NodeAddress) -> MultiplexedRedis:
        if address not in self._nodes:
            self._nodes[address] = MultiplexedRedis(self._client.node(address))
        return self._nodes[address]

    def _receive(self, address: NodeAddress, command: Sequence[Any], waiter: Waiter) -> Any:
        try:
            with self._topology.refreshing_after_errors(address):
                return _wait_for_reply(waiter)
        except REDIRECTS:
            return self.execute(*command)


class _SharedConnection:
    """An open connection. All methods but `send` and `close` run in the event loop's own greenlet and must not wait."""

    def __init__(self, connection: Any, on_close: Callable[[], None]) -> None:
        self._connection = connection
        self._on_close = on_close
        self._socket = connection._get_socket()
        self._socket.setblocking(False)
        self._timeout_seconds = connection.socket_timeout
        self._reader = hiredis.Reader(
            protocolError=redis.InvalidResponse, replyError=self._parse_error, notEnoughData=_INCOMPLETE
        )
        self._unsent: list[bytes] = []
        self._sending = memoryview(b"")  # what the socket buffer had no room for
        self._in_flight: deque[tuple[Waiter, float]] = deque()  # with the deadline of each command
        self._hub = get_hub()
        loop = self._hub.loop
        self._readable, self._writable = (loop.io(self._socket.fileno(), event) for event in (_READ, _WRITE))
        interval = self._timeout_seconds / CHECKS_PER_TIMEOUT
        self._timer = loop.timer(interval, interval)  # one for all commands, since a timer per command costs CPU
        self._readable.start(self._receive)

    def send(self, command: Sequence[Any]) -> Waiter:
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            raise redis.ConnectionError("too many commands in flight")
        packed = hiredis.pack_command(tuple(command))
        if not self._unsent:
            self._hub.loop.run_callback(self._flush)
        self._unsent.append(packed)
        waiter = Waiter(self._hub)
        self._in_flight.append((waiter, time.monotonic() + self._timeout_seconds))
        return waiter

    def close(self, error: redis.RedisError) -> None:
        """Close the connection; every command in flight raises `error`."""
        self._on_close()
        for watcher in (self._readable, self._writable, self._timer):
            watcher.stop()
            watcher.close()
        self._connection.disconnect()
        self._unsent, self._sending = [], memoryview(b"")
        while self._in_flight:
            self._deliver(_copy(error))

    def _deliver(self, reply: Any) -> None:
        """Hand a reply to the oldest command. A waiter whose greenlet was killed or timed out ignores it."""
        self._hub.loop.run_callback(self._in_flight.popleft()[0].switch, reply)

    def _flush(self) -> None:
        """Runs at the end of a loop iteration, and when the socket buffer has room again."""
        if not self._sending:
            self._sending = memoryview(b"".join(self._unsent))
            self._unsent.clear()
        if not self._sending:
            return
        try:
            self._sending = self._sending[self._socket.send(self._sending) :]
        except _WOULD_BLOCK:
            pass
        except OSError as error:
            self.close(redis.ConnectionError(f"Error while writing to socket: {error}"))
            return
        if self._sending or self._unsent:
            self._writable.start(self._flush)
        else:
            self._writable.stop()
        if not self._timer.active:
            self._timer.start(self._check_timeout)

    def _receive(self) -> bool:
        """Read once, at most BUFFER_BYTES. Return whether more may have arrived."""
        try:
            received = self._socket.recv(BUFFER_BYTES)
            if not received:
                raise ConnectionResetError("closed by server")
            self._reader.feed(received)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if not self._in_flight:
                    raise redis.InvalidResponse("unexpected reply from Redis")
                self._deliver(reply)
        except _WOULD_BLOCK:
            return False
        except OSError as error:
            self.close(redis.ConnectionError(f"Error while reading from socket: {error}"))
            return False
        except redis.InvalidResponse as error:
            self.close(error)
            return False
        return True

    def _parse_error(self, message: str) -> Exception:
        error: Exception = BaseParser.parse_error(message)  # type: ignore[no-untyped-call]
        if isinstance(error, redis.exceptions.ReadOnlyError) and isinstance(self._connection, AbortableConnection):
            self._connection.on_read_only()
        return error

    def _check_timeout(self) -> None:
        if not self._in_flight:
            self._timer.stop()
        elif self._is_overdue:
            while self._is_overdue and self._receive():  # this process may have been blocked while replies arrived
                pass
            if self._is_overdue:
                self.close(redis.TimeoutError("Timeout reading from socket"))

    @property
    def _is_overdue(self) -> bool:
        return bool(self._in_flight) and self._in_flight[0][1] < time.monotonic()


def _wait_for_reply(waiter: Waiter) -> Any:
    reply = waiter.get()
    if isinstance(reply, Exception):
        try:
            raise reply
        finally:
            del reply  # breaks the reference cycle between the exception and this frame
    return reply


def _copy(error: redis.RedisError) -> redis.RedisError:
    """Each caller raises a copy, because raising changes the traceback."""
    return type(error)(*error.args)
