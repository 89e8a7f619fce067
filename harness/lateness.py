"""A control measurement for limits on time: how late this machine runs a thread that wants to run now.

with measured_lateness() as lateness:
    seconds = duration_of_a_request()
assert seconds < LIMIT_SECONDS + lateness.slack
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PERIOD_SECONDS = 0.02
# A request passes through up to so many processes, each of which may be as late: client, proxy, instance, store, and back.
PROCESSES_IN_TURN = 5


class Lateness:
    """How late the thread was. In a process patched by gevent, it is a greenlet, and how late the event loop was."""

    def __init__(self) -> None:
        self.longest = 0.0  # seconds

    @property
    def slack(self) -> float:
        """Seconds that one measured operation may have taken longer because the machine was busy; nearly 0 if it was not."""
        return PROCESSES_IN_TURN * self.longest

    def excuses(self, timeout: float) -> bool:
        """Return whether an operation may have exceeded a timeout, in seconds, only because the machine was busy."""
        return self.slack > timeout / 2


@contextmanager
def measured_lateness() -> Iterator[Lateness]:
    """Measure during the block."""
    lateness, over = Lateness(), threading.Event()

    def measure() -> None:
        while True:
            began = time.monotonic()
            if over.wait(PERIOD_SECONDS):
                return
            lateness.longest = max(lateness.longest, time.monotonic() - began - PERIOD_SECONDS)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield lateness
    finally:
        over.set()
        thread.join()
