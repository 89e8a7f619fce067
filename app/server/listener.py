"""Closing a listening socket so that nobody who was connecting is reset."""

from __future__ import annotations

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
QUIET_SECONDS = 0.1  # a handshake that had begun is completed within a round trip

# Classic BPF, run by the kernel for each segment that reaches the socket: no segment with SYN gets in, all others do.
_NO_SYN = [
    (0x30, 0, 0, 13),  # load the byte with the flags of the TCP header
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # yes: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # no: pass
]


def drain_and_close(listener: socket.socket, close: Callable[[], None], sleep: Callable[[float], None], seconds: float) -> bool:
    """Has everybody accepted who is in the queue, then calls `close`. False: some were left after so many seconds.

    The kernel resets what waits in the queue of a listening socket that is closed, although its clients were told that they are
    connected, and may have sent a request. So the door is shut first: who comes now is not answered, asks again within a second
    and is refused then, which a balancer takes as "try the next instance", whatever the request. Meanwhile the queue empties.
    """
    drop_new_connections(listener)
    for _ in range(max(1, int(seconds / QUIET_SECONDS))):
        sleep(QUIET_SECONDS)
        if not is_readable(listener):
            break
    is_empty = not is_readable(listener)
    _let_newcomers_in(listener)  # to whoever else has this socket, or comes to have it
    close()
    return is_empty


def drop_new_connections(listener: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_SYN)
    memory = ctypes.create_string_buffer(program, len(program))
    with suppress(OSError):  # not on this kernel: what is left then is the moment between the last look and the close
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(_NO_SYN), ctypes.addressof(memory)))


def _let_newcomers_in(listener: socket.socket) -> None:
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def is_readable(sock: socket.socket) -> bool:
    """Whether something has come: data, the end, or, on a listening socket, a connection. Does not wait, and may be asked in a
    callback of the event loop, unlike gevent's own poll."""
    poll = monkey.get_original("select", "poll")()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def is_open_in_process(pid: int, listener: socket.socket) -> bool:
    """Whether that process has the same socket open; then closing it here closes nothing."""
    own = os.fstat(listener.fileno()).st_ino
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if descriptor.stat().st_ino == own:
                    return True
    return False
