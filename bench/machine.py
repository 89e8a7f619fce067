"""The machine, and what of it a process takes."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import psutil

SERVER_CORE, OTHER_CORE = 0, 1  # what is measured has the first one for itself; load and stores share the other


def describe() -> str:
    """`2 cores of …, Python 3.11.2, Linux 6.1`."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpu_facts() if line.startswith("model name")), "an unknown processor"
    )
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, Linux {kernel}"


def pin(pid: int, core: int) -> None:
    """With all that it starts from now on, and has started."""
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a store's child that has done its work
            one.cpu_affinity([core])


def cpu_seconds(pid: int) -> float:
    """That a process and its children have taken so far."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def busy_seconds(pid: int) -> float:
    """The same by the scheduler's own count, which is not one of hundredths of a second; for what takes little."""
    process = psutil.Process(pid)
    of_threads = [
        statistics
        for one in (process, *process.children(recursive=True))
        for statistics in Path(f"/proc/{one.pid}/task").glob("*/schedstat")
    ]
    return sum(int(statistics.read_text().split()[0]) for statistics in of_threads) / 1e9


def memory_bytes(pid: int) -> int:
    """That nobody else has a part in, of a process and its children."""
    process = psutil.Process(pid)
    return sum(int(one.memory_full_info().uss) for one in (process, *process.children(recursive=True)))


def _cpu_facts() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
