"""Describes the machine, pins processes to cores and measures their CPU time and memory."""

import os
import platform
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

import psutil

SERVER_CORE, OTHER_CORE = 0, 1  # the measured server has a core for itself; load generator and stores share the other


def describe() -> str:
    """Return `2 cores of …, Python 3.11.2 (the distribution's, optimised), Linux 6.1`."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpu_facts() if line.startswith("model name")), "an unknown processor"
    )
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()} ({_python()}), Linux {kernel}"


def _python() -> str:
    """Return whose build the interpreter is, and whether its build was guided by profiles, which makes it a quarter faster."""
    is_distributions = sys.base_prefix == "/usr"
    # Debian's build is, although its configuration does not say so.
    is_optimised = is_distributions or "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"{'the distribution’s' if is_distributions else sys.base_prefix}, {'optimised' if is_optimised else 'not optimised'}"


def pin(pid: int, core: int) -> None:
    """Pin the process and its present and future children to the core."""
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a child has exited
            one.cpu_affinity([core])


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children so far, in units of 10 ms."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def busy_seconds(pid: int) -> float:
    """Return the CPU time so far from the scheduler's statistics, which are precise enough for short times."""
    process = psutil.Process(pid)
    by_thread = [
        statistics
        for one in (process, *process.children(recursive=True))
        for statistics in Path(f"/proc/{one.pid}/task").glob("*/schedstat")
    ]
    return sum(int(statistics.read_text().split()[0]) for statistics in by_thread) / 1e9


def memory_bytes(pid: int) -> int:
    """Return the unshared memory of a process and its children."""
    process = psutil.Process(pid)
    return sum(int(one.memory_full_info().uss) for one in (process, *process.children(recursive=True)))


def _cpu_facts() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
