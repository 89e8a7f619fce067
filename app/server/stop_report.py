"""The report of one stop: its phases, their durations, and what had to be cut off."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

CLEAN, FORCED, CRASHED = "clean", "forced", "crashed"


@dataclass
class StopPhase:
    name: str
    seconds: float = 0.0
    count: int | None = None  # of the sockets, requests or jobs that the phase ended
    cut_off: str = ""  # what did not end in time, or failed; empty for a clean phase

    def __str__(self) -> str:
        counted = self.name if self.count is None else f"{self.name} {self.count}"
        return f"{counted} in {self.seconds:.2f} s" + (f" ({self.cut_off})" if self.cut_off else "")


@dataclass
class StopReport:
    """Created when the signal arrives. Phases may overlap and are listed in the order in which they began."""

    phases: list[StopPhase] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @contextmanager
    def phase(self, name: str) -> Iterator[StopPhase]:
        """Measure a phase. An exception marks it as cut off and is not raised, so the stop continues."""
        phase = StopPhase(name)
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
        """The time since the signal."""
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
