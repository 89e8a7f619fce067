"""Closes a listening socket without resetting clients that are connecting."""

import ctypes
import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
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


def drain_and_close(listener: socket.socket, close: Callable[[], None], sleep: Callable[[float], None], seconds: float) -> bool:
    """Wait until all queued connections are accepted, then call `close`. Return False if some were left after the timeout.

    When a listening socket is closed, the kernel resets the connections in its accept queue, although their clients are already
    connected and may have sent a request. Therefore new SYNs are dropped first: such a client retries within a second and is
    refused then, which a load balancer takes as "try the next instance", whatever the request. Meanwhile the queue empties.
    """
    drop_new_connections(listener)
    for _ in range(max(1, int(seconds / QUIET_SECONDS))):
        sleep(QUIET_SECONDS)
        if not is_readable(listener):
            break
    is_empty = not is_readable(listener)
    _accept_new_connections(listener)  # for another process that has this socket open
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
