"""The control measurement of limits on time. In a process patched by gevent, it must not depend on the event loop."""

from __future__ import annotations

import time

import pytest
from gevent import monkey

from harness.lateness import Lateness, measured_lateness, time_limit

blocking_sleep = monkey.get_original("time", "sleep")


def test_block_that_exceeds_its_limit_fails() -> None:
    with pytest.raises(AssertionError, match="the block took"), time_limit(-60, "the block"):
        time.sleep(0.05)


def test_code_that_blocks_the_event_loop_does_not_excuse_itself() -> None:
    with measured_lateness() as lateness:
        blocking_sleep(2)
    assert lateness.longest < 1


def test_lateness_is_measured_until_the_end_of_the_block() -> None:
    with measured_lateness() as lateness:
        lateness._ran_at -= 60  # as if the thread had not run for so long
    assert lateness.longest > 50


def test_timeout_is_excused_if_the_lateness_uses_half_of_it_up() -> None:
    lateness = Lateness()
    lateness.longest = 0.2
    assert lateness.excuses(1.9)
    assert not lateness.excuses(2.1)
