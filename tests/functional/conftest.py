"""Fleets of real instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from harness.servers import Instance, fleet_environment

StartFleet = Callable[..., list[Instance]]

GENEROUS = {"RATE_LIMIT_REGISTER": "1000/h", "RATE_LIMIT_LOGIN": "1000/min"}


@pytest.fixture
def start_fleet(redis_url: str, database_url: str) -> Iterator[StartFleet]:
    """Starts so many ready instances on the shared Redis and a database of their own, named instance-1, instance-2, ..."""
    with ExitStack() as stack:

        def start(count: int, *, application: str = "wsgi:app", **overrides: str) -> list[Instance]:
            environment = fleet_environment(redis_url, database_url, **{**GENEROUS, **overrides})
            return [
                stack.enter_context(Instance({**environment, "INSTANCE_ID": f"instance-{number}"}, application=application))
                for number in range(1, count + 1)
            ]

        yield start
