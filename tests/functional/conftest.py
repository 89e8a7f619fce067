"""Fleets of real instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from harness.fleet import NO_RATE_LIMITS, start_together
from harness.machine import Machine
from harness.servers import Instance, fleet_environment

StartFleet = Callable[..., list[Instance]]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """The machine of the tests. Its `limit` extends a limit on time while something else uses the processors."""
    with Machine() as machine:
        yield machine


@pytest.fixture
def start_fleet(redis_url: str, database_url: str) -> Iterator[StartFleet]:
    """Start ready instances on the shared Redis and a database of their own, named instance-1, instance-2, ..."""
    with ExitStack() as stack:

        def start(count: int, *, application: str = "wsgi:app", **overrides: str) -> list[Instance]:
            environment = fleet_environment(redis_url, database_url, **{**NO_RATE_LIMITS, **overrides})
            names = [f"instance-{number}" for number in range(1, count + 1)]
            return start_together(
                stack, [Instance({**environment, "INSTANCE_ID": name}, application=application) for name in names]
            )

        yield start
