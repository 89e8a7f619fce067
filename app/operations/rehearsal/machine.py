"""Whether the machine of a rehearsal leaves enough processor time to judge how long the fleet takes."""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import gevent

from app.operations.rehearsal import control_process
from app.operations.rehearsal.control_process import WORK_SECONDS

TICK_SECONDS = 0.02
WINDOW_SECONDS = 5.0  # one piece of work says little; the mean of a whole phase would hide a short disturbance

# With longer stalls, or where work takes more than twice its processor time, measured times say nothing about the fleet.
MAX_STALL_SECONDS, MAX_SLOWDOWN = 1.0, 2.0


@dataclass(frozen=True)
class MachineLoad:
    """How busy the machine was during some time.

    `stall`: the longest time in seconds in which the load generator did not run.
    `slowdown`: how long the control process took for its work, divided by the processor time of that work. An idle machine has 1.
    """

    stall: float = 0.0
    slowdown: float = 1.0

    @property
    def is_too_busy(self) -> bool:
        return self.stall > MAX_STALL_SECONDS or self.slowdown > MAX_SLOWDOWN

    def __str__(self) -> str:
        return (
            f"a control process took up to {self.slowdown:.1f} x its processor time (at most {MAX_SLOWDOWN:g}), "
            f"and the load generator stalled for up to {self.stall:.2f} s (at most {MAX_STALL_SECONDS:g})"
        )


class MachineMonitor:
    """Measures the load of the machine from the beginning of a `with` block to its end."""

    def __init__(self) -> None:
        self._stalls: list[tuple[float, float]] = []  # (end, seconds)
        self._work: list[tuple[float, float]] = []  # (due, seconds)

    def __enter__(self) -> Self:
        self._control = subprocess.Popen([sys.executable, control_process.__file__], stdout=subprocess.PIPE, text=True)
        self._greenlets = [gevent.spawn(self._record_stalls), gevent.spawn(self._record_work)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._control.kill()
        with self._control:  # closes the pipe
            gevent.killall(self._greenlets)

    def load(self, started: float, ended: float) -> MachineLoad:
        """Return the load between two times."""
        stalls = [seconds for at, seconds in self._stalls if started <= at <= ended]
        work = [(due, seconds) for due, seconds in self._work if started <= due <= ended]
        return MachineLoad(max(stalls, default=0.0), slowdown(work))

    def _record_stalls(self) -> None:
        before = time.monotonic()
        while True:
            gevent.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._stalls.append((now, now - before - TICK_SECONDS))
            before = now

    def _record_work(self) -> None:
        assert self._control.stdout
        for line in self._control.stdout:
            due, seconds = map(float, line.split())
            self._work.append((due, seconds))


def slowdown(work: Sequence[tuple[float, float]]) -> float:
    """Return the slowdown of the worst window. `work`: when each piece was due, and after how many seconds it was done."""
    if not work:
        return 1.0
    began_at, last_due = work[0][0], work[-1][0]
    last = max(1, round((last_due - began_at) / WINDOW_SECONDS)) - 1  # it includes a short rest, which alone would say little
    windows = itertools.groupby(work, key=lambda piece: min(last, (piece[0] - began_at) // WINDOW_SECONDS))
    return max(statistics.fmean(seconds for _, seconds in pieces) / WORK_SECONDS for _, pieces in windows)
