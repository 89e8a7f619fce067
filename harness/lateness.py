"""Limits on time that hold on a busy machine too, by a control measurement: how late a thread runs that wants to run now.

with time_limit(2, "the request"):
    user.get("/api/auth/me")
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
        while not over.is_set():
            began = time.monotonic()
            over.wait(PERIOD_SECONDS)
            lateness.longest = max(lateness.longest, time.monotonic() - began - PERIOD_SECONDS)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield lateness
    finally:
        over.set()
        thread.join()


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise AssertionError if the block takes longer than so many seconds, and longer than the lateness excuses."""
    began = time.monotonic()
    with measured_lateness() as lateness:
        yield
    took = time.monotonic() - began
    assert took < seconds + lateness.slack, f"{what} took {took:.1f} s, with {lateness.slack:.1f} s of slack"
