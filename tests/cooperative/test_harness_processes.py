from __future__ import annotations

import psutil
import pytest

from harness.greenlets import until
from harness.processes import run
from harness.servers import ROOT


def test_program_that_ends_at_once_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent collects the status of a process as soon as it ends, so that there may be none left to watch."""
    process_class = psutil.Process

    def watch_late(pid: int) -> psutil.Process:
        until(lambda: not psutil.pid_exists(pid))
        return process_class(pid)

    monkeypatch.setattr(psutil, "Process", watch_late)
    assert run(["echo", "done"], environment={}, directory=ROOT) == "done\n"
