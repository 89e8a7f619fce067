"""The account of one stop: its phases, what each of them did, and whether anything had to be cut off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

CLEAN, FORCED, CRASHED = "clean", "forced", "crashed"


@dataclass
class Phase:
    name: str
    seconds: float = 0.0
    count: int | None = None  # of what the phase is about: sockets, requests, ...
    cut_off: str = ""  # what did not end by itself; empty: the phase was clean

    def __str__(self) -> str:
        counted = self.name if self.count is None else f"{self.name} {self.count}"
        return f"{counted} in {self.seconds:.2f} s" + (f" ({self.cut_off})" if self.cut_off else "")


@dataclass
class StopReport:
    """Begun with the signal. Phases may overlap; they stand in the order in which they began."""

    phases: list[Phase] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """A phase that ends by an exception was cut off, and the stop goes on with the next."""
        phase = Phase(name)
        self.phases.append(phase)
        began = time.monotonic()
        try:
            yield phase
        except Exception as error:
            phase.cut_off = f"{type(error).__name__}: {error}"
        finally:
            phase.seconds = time.monotonic() - began

    @property
    def seconds(self) -> float:
        """Since the signal."""
        return time.monotonic() - self._began

    @property
    def kind(self) -> str:
        return FORCED if any(phase.cut_off for phase in self.phases) else CLEAN

    @property
    def summary(self) -> str:
        return f"{self.kind} in {self.seconds:.2f} s: {'; '.join(map(str, self.phases))}"

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "seconds": round(self.seconds, 2),
            "summary": self.summary,
            "phases": [{"name": phase.name, "seconds": round(phase.seconds, 2), "count": phase.count} for phase in self.phases],
        }
