from __future__ import annotations

from bench.growth.heartbeats import SEEN_WITHIN_SECONDS, SimulatedFleet
from harness.scale import count

SIZE = count(10, 300)


def test_new_instance_is_seen_and_a_rolling_restart_changes_the_key_without_a_crash() -> None:
    with SimulatedFleet.started(SIZE) as fleet:
        assert fleet.measure_newcomer() < SEEN_WITHIN_SECONDS
        fleet.restart_all()  # raises otherwise
