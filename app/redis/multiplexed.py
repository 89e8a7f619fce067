"""One connection to Redis that all greenlets of a process share, for the few commands that nearly every request needs.

What the requests of one turn of the event loop ask is sent together, and the answers are handed out in order. Written by hand for
speed: it takes 4 us of CPU to read a session with 32 requests at once, and 40 alone, of redis-py's 75 and 115
(`python -m bench.redis_commands`). Connecting is left to redis-py, and so is whatever is asked less often.

A connection on which an answer is late is dropped, with all who wait for it: whatever still came would be taken for the answer to
another question. Nothing is asked twice, since Redis may have done it.
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
from redis.commands.core import Script
from redis.exceptions import NoScriptError

MAX_WAITING = 5_000  # commands: more greenlets than that are in an outage, which must not fill the memory
CONNECT_SECONDS = 1.3  # with all that is asked to begin with; each step of it has the client's timeout as well
CHECKS = 10  # of the eldest command in the time that it has
BUFFER_BYTES = 65_536

_INCOMPLETE = object()
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ, _WRITE = 1, 2  # libev's


class MultiplexedRedis:
    """Of one process and its main thread. Connects when it is first used, and anew after the connection was lost.

    All methods but `close` raise redis.RedisError, within the time that the client gives to a command.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._line: _Line | None = None
        self._attempt: gevent.Greenlet | None = None

    def execute(self, *command: Any) -> Any:
        """Strings are bytes, and maps are lists of keys and values in turn."""
        return _answer((self._line or self._connect()).ask(command))

    def execute_all(self, *commands: Sequence[Any]) -> list[Any]:
        """In one go, though others' commands may come in between."""
        line = self._line or self._connect()
        return [_answer(waiter) for waiter in [line.ask(command) for command in commands]]

    def run_script(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        command = ["EVALSHA", script.sha, len(keys), *keys, *arguments]
        try:
            return self.execute(*command)
        except NoScriptError:
            self.execute("SCRIPT", "LOAD", script.script)
            return self.execute(*command)

    def close(self) -> None:
        if self._attempt:
            self._attempt.kill()
        if self._line:
            self._line.drop(redis.ConnectionError("Connection closed."))

    def _connect(self) -> _Line:
        """One attempt at a time, whose outcome is that of all who wait for it."""
        if self._attempt is None:
            self._attempt = gevent.spawn(self._try)
        error = self._attempt.get()
        if isinstance(error, redis.RedisError):
            raise _copy(error)
        if self._line is None:
            raise redis.ConnectionError("Connection lost.")
        return self._line

    def _try(self) -> redis.RedisError | None:
        try:
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            with gevent.Timeout(CONNECT_SECONDS, redis.TimeoutError("Timeout connecting to server")):
                connection.connect()
            self._line = _Line(connection, self._forget)
        except redis.RedisError as error:
            return error
        finally:
            self._attempt = None
        return None

    def _forget(self) -> None:
        self._line = None


class _Line:
    """A connection from its beginning to its end. All but `ask` and `drop` runs in the event loop's own greenlet."""

    def __init__(self, connection: Any, on_drop: Callable[[], None]) -> None:
        self._connection = connection
        self._on_drop = on_drop
        self._socket = connection._get_socket()
        self._socket.setblocking(False)
        self._seconds = connection.socket_timeout
        self._reader = hiredis.Reader(
            protocolError=redis.InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_INCOMPLETE
        )
        self._unsent: list[bytes] = []
        self._rest = memoryview(b"")  # of what was to be sent, and the socket had no room for
        self._waiting: deque[tuple[Waiter, float]] = deque()  # for an answer, and until when
        self._hub = get_hub()
        loop = self._hub.loop
        self._readable, self._writable = (loop.io(self._socket.fileno(), event) for event in (_READ, _WRITE))
        self._clock = loop.timer(self._seconds / CHECKS, self._seconds / CHECKS)  # one for all who wait: a timer has its price
        self._readable.start(self._receive)

    def ask(self, command: Sequence[Any]) -> Waiter:
        if len(self._waiting) >= MAX_WAITING:
            raise redis.ConnectionError("Too many commands wait for an answer.")
        packed = hiredis.pack_command(tuple(command))
        if not self._unsent:
            self._hub.loop.run_callback(self._send)
        self._unsent.append(packed)
        waiter = Waiter(self._hub)
        self._waiting.append((waiter, time.monotonic() + self._seconds))
        return waiter

    def drop(self, error: redis.RedisError) -> None:
        self._on_drop()
        for watcher in (self._readable, self._writable, self._clock):
            watcher.stop()
            watcher.close()
        self._connection.disconnect()
        self._unsent, self._rest = [], memoryview(b"")
        while self._waiting:
            self._hand_over(_copy(error))

    def _hand_over(self, answer: Any) -> None:
        """To the eldest. In a turn of its own; and if it does not wait any more, to nobody."""
        self._hub.loop.run_callback(self._waiting.popleft()[0].switch, answer)

    def _send(self) -> None:
        """At the end of a turn, or when the socket has room again."""
        if not self._rest:
            self._rest = memoryview(b"".join(self._unsent))
            self._unsent.clear()
        if not self._rest:
            return
        try:
            self._rest = self._rest[self._socket.send(self._rest) :]
        except _NOT_NOW:
            pass
        except OSError as error:
            self.drop(redis.ConnectionError(f"Error while writing to socket: {error}"))
            return
        if self._rest or self._unsent:
            self._writable.start(self._send)
        else:
            self._writable.stop()
        if not self._clock.active:
            self._clock.start(self._check)

    def _receive(self) -> None:
        try:
            received = self._socket.recv(BUFFER_BYTES)
            if not received:
                raise ConnectionResetError("closed by server")
            self._reader.feed(received)
            while (answer := self._reader.gets()) is not _INCOMPLETE:
                if not self._waiting:
                    raise redis.InvalidResponse("An answer to no question.")
                self._hand_over(answer)
        except _NOT_NOW:
            pass
        except OSError as error:
            self.drop(redis.ConnectionError(f"Error while reading from socket: {error}"))
        except redis.InvalidResponse as error:
            self.drop(error)

    def _check(self) -> None:
        if not self._waiting:
            self._clock.stop()
        elif self._is_late:
            self._receive()  # it may be this process that is late
            if self._is_late:
                self.drop(redis.TimeoutError("Timeout reading from socket"))

    @property
    def _is_late(self) -> bool:
        return bool(self._waiting) and self._waiting[0][1] < time.monotonic()


def _answer(waiter: Waiter) -> Any:
    answer = waiter.get()
    if isinstance(answer, Exception):
        try:
            raise answer
        finally:
            del answer  # which knows this frame, from now on
    return answer


def _copy(error: redis.RedisError) -> redis.RedisError:
    """For one of several who raise it."""
    return type(error)(*error.args)
