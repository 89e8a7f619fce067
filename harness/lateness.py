"""Limits on time that hold on a busy machine too, by a control measurement: how late a thread runs that wants to run now.

with time_limit(2, "the request"):
    user.get("/api/auth/me")
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from gevent import monkey

PERIOD_SECONDS = 0.02
# A request passes through up to so many processes, each of which may be as late: client, proxy, instance, store, and back.
PROCESSES_IN_TURN = 5

# A thread of the operating system, also in a process patched by gevent: code that blocks the event loop must not excuse itself.
_start_new_thread = monkey.get_original("_thread", "start_new_thread")
_sleep = monkey.get_original("time", "sleep")


class Lateness:
    """How late the thread was, which wakes up every PERIOD_SECONDS."""

    def __init__(self) -> None:
        self.longest = 0.0  # seconds
        self._ran_at = time.monotonic()

    @property
    def slack(self) -> float:
        """Seconds that one measured operation may have taken longer because the machine was busy; nearly 0 if it was not."""
        return PROCESSES_IN_TURN * self.longest

    def excuses(self, timeout: float) -> bool:
        """Return whether an operation may have exceeded a timeout, in seconds, only because the machine was busy."""
        return self.slack > timeout / 2

    def observe(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self._ran_at - PERIOD_SECONDS)
        self._ran_at = now


@contextmanager
def measured_lateness() -> Iterator[Lateness]:
    """Measure during the block."""
    lateness, is_over = Lateness(), False

    def measure() -> None:
        while not is_over:
            _sleep(PERIOD_SECONDS)
            lateness.observe()

    _start_new_thread(measure, ())
    try:
        yield lateness
    finally:
        is_over = True
        lateness.observe()  # the thread may be late now


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise AssertionError if the block takes longer than so many seconds, and longer than the lateness excuses."""
    began = time.monotonic()
    with measured_lateness() as lateness:
        yield
    took = time.monotonic() - began
    assert took < seconds + lateness.slack, f"{what} took {took:.1f} s, with {lateness.slack:.1f} s of slack"
