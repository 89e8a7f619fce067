"""Balance: an instance with many more sockets than the mean moves some of them to the others, slowly."""

import logging
import math
from collections.abc import Callable
from typing import Protocol

import gevent

from app.core.tasks import InstanceTask
from app.fleet.store import FleetTotals

log = logging.getLogger(__name__)

MAX_SHARE_OF_MEAN = 1.1  # above it, and MIN_EXCESS sockets above the mean, an instance sheds sockets until it has the mean
MIN_EXCESS = 20
SHARE_OF_DRAIN_RATE = 0.1
CHECK_SECONDS = 1.0


class Sockets(Protocol):
    """The sockets of this instance."""

    @property
    def staying(self) -> int:
        """The number of those that were not asked to leave."""

    def shed_one(self) -> None:
        """Ask the client of one of them to leave."""


def excess_of(own: int, totals: FleetTotals | None, *, is_shedding: bool) -> int:
    """Return how many of its `own` sockets an instance should shed. `is_shedding`: whether it has begun and not ended.

    It is 0 while the totals are unknown, the fleet is changing, or no other ready instance has fewer sockets than the mean.
    """
    if totals is None or totals.is_changing or totals.ready < 2 or totals.fewest_sockets >= totals.mean_sockets:
        return 0
    excess = own - totals.mean_sockets
    has_too_many = own > MAX_SHARE_OF_MEAN * totals.mean_sockets and excess >= MIN_EXCESS
    return max(0, math.floor(excess)) if has_too_many or is_shedding else 0


class Balancer:
    def __init__(self, sockets: Sockets, totals: Callable[[], FleetTotals | None], drain_rate: int) -> None:
        """`totals` returns those of the last heartbeat, or None if they are outdated or this instance is not ready."""
        self.excess = 0  # how many sockets are still to be shed
        self._sockets = sockets
        self._totals = totals
        self._pause_seconds = 1 / (SHARE_OF_DRAIN_RATE * drain_rate)
        self._task = InstanceTask("balance", CHECK_SECONDS)
        self._shed = 0

    def run(self) -> None:
        """Shed sockets forever, as a greenlet."""
        while True:
            gevent.sleep(self._pause_seconds if self.step() else CHECK_SECONDS)

    def step(self) -> bool:
        """Shed one socket if there are too many, and return whether there were."""
        was_shedding = self.excess > 0
        self.excess = excess_of(self._sockets.staying, self._totals(), is_shedding=was_shedding)
        if self.excess and not was_shedding:
            log.info("shedding %d of %d sockets to instances that have fewer", self.excess, self._sockets.staying)
        if self.excess:
            self._sockets.shed_one()
            self._shed += 1
        elif was_shedding:
            log.info("shed %d sockets, %d stay", self._shed, self._sockets.staying)
            self._shed = 0
        self._task.succeed()
        return self.excess > 0
