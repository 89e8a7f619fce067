"""Waiting for a condition in a test that runs greenlets: the others run meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from harness.processes import PATIENCE_SECONDS

POLL_SECONDS = 0.002


def until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true. Raise gevent.Timeout if it takes longer than PATIENCE_SECONDS."""
    with gevent.Timeout(PATIENCE_SECONDS):
        while not condition():
            gevent.sleep(POLL_SECONDS)
