"""A control measurement beside tests that measure times: how busy the machine is meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from app.operations.rehearsal import control_process
from app.operations.rehearsal.machine import MachineLoad, slowdown


class Machine:
    """Measures its own machine while it is used in a `with` statement."""

    def __init__(self) -> None:
        self._work: list[tuple[float, float]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        command = [sys.executable, control_process.__file__]
        control = self._stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        reader = threading.Thread(target=self._read, args=(control,))
        reader.start()
        self._stack.callback(reader.join)
        self._stack.callback(control.kill)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def limit(self, seconds: float) -> float:
        """Return a limit on time in seconds: the given one, or a longer one if the machine has been too busy for it."""
        load = MachineLoad(slowdown=slowdown(list(self._work)))
        return seconds * (load.slowdown if load.is_too_busy else 1)

    def _read(self, control: subprocess.Popen[str]) -> None:
        assert control.stdout
        for line in control.stdout:
            due, seconds = map(float, line.split())
            self._work.append((due, seconds))
