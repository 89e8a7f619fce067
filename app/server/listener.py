"""Closes a listening socket without resetting clients that are connecting."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gevent import monkey

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h; Python has no names for them
QUIET_SECONDS = 0.1  # a handshake that has begun completes within a round trip

# Classic BPF, run by the kernel for each segment that reaches the socket: drops those with SYN, passes all others.
_DROP_SYN = [
    (0x30, 0, 0, 13),  # load the byte with the flags of the TCP header
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # yes: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # no: pass
]


class ListenerUsers:
    """The workers of one gunicorn that have a listening socket open. They share the filter of that socket.

    Created by the master. Each worker holds a lock on the same file, which the kernel releases even if the worker is killed.
    """

    _TURN = 0  # the byte that a leaving worker locks; the number of the descriptor is the byte that all users share

    def __init__(self) -> None:
        self._descriptor, path = tempfile.mkstemp()  # open as long as the process
        Path(path).unlink()

    def enter(self, listener: socket.socket) -> None:
        self._lock(fcntl.LOCK_SH, listener.fileno())

    @contextmanager
    def leaving(self, listener: socket.socket) -> Iterator[bool]:
        """Yield whether this worker is the last user. No other worker leaves meanwhile."""
        user = listener.fileno()
        self._lock(fcntl.LOCK_EX, self._TURN)
        try:
            yield self._is_only(user)
        finally:
            self._lock(fcntl.LOCK_UN, user)
            self._lock(fcntl.LOCK_UN, self._TURN)

    def _is_only(self, user: int) -> bool:
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, user)
        except OSError:
            return False
        return True

    def _lock(self, operation: int, byte: int) -> None:
        fcntl.lockf(self._descriptor, operation, 1, byte)


def drain_and_close(
    listener: socket.socket, close: Callable[[], None], sleep: Callable[[float], None], seconds: float, users: ListenerUsers
) -> bool:
    """Wait until all queued connections are accepted, then call `close`. Return False if some were left after the timeout.

    When a listening socket is closed, the kernel resets the connections in its accept queue, although their clients are already
    connected and may have sent a request. Therefore new SYNs are dropped first: such a client retries within a second and is
    refused then, which a load balancer takes as "try the next instance", whatever the request. Meanwhile the queue empties.
    The filter belongs to the socket, not to this process: only the last of several workers removes it.
    """
    drop_new_connections(listener)
    for _ in range(max(1, int(seconds / QUIET_SECONDS))):
        sleep(QUIET_SECONDS)
        if not is_readable(listener):
            break
    is_empty = not is_readable(listener)
    with users.leaving(listener) as is_last:
        if is_last:
            _accept_new_connections(listener)  # for a program other than this gunicorn that has the socket open
        close()
    return is_empty


def drop_new_connections(listener: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    memory = ctypes.create_string_buffer(program, len(program))
    with suppress(OSError):  # where the kernel refuses, connections of the last moment before the close are reset
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(_DROP_SYN), ctypes.addressof(memory)))


def _accept_new_connections(listener: socket.socket) -> None:
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def is_readable(sock: socket.socket) -> bool:
    """Whether data, the end of the stream or a connection to accept has arrived. Does not wait.

    Uses the unpatched poll, because gevent's own may not be called in a callback of the event loop.
    """
    poll = monkey.get_original("select", "poll")()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def is_open_in_process(pid: int, listener: socket.socket) -> bool:
    """Whether that process has the same socket open. Closing it here then does not close the port."""
    own = os.fstat(listener.fileno()).st_ino
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if descriptor.stat().st_ino == own:
                    return True
    return False
