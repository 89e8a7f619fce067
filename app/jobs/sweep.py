"""What has to be done again and again beside the jobs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from app.core.errors import Unavailable

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
HOUR_SECONDS = 3600.0

Chore = Callable[[], object]


class Sweep:
    """Every few seconds finds what got lost, and what is due; every hour, and at once, removes what is too old."""

    def __init__(self, chores: Sequence[Chore], hourly: Sequence[Chore]) -> None:
        self._chores = chores
        self._hourly = hourly
        self._stop = threading.Event()

    def run(self) -> None:
        """Until it is stopped."""
        tidied_at = -math.inf
        while not self._stop.wait(SWEEP_SECONDS):
            self._do(self._chores)
            if time.monotonic() - tidied_at > HOUR_SECONDS:
                tidied_at = time.monotonic()
                self._do(self._hourly)

    def stop(self) -> None:
        self._stop.set()

    def _do(self, chores: Sequence[Chore]) -> None:
        for chore in chores:
            try:
                chore()
            except Unavailable:
                log.debug("the sweep has to wait for the database")
            except Exception:  # a thread that ended here would be missed by nobody until something got lost
                log.exception("a part of the sweep failed, and begins again")
