"""How full the memory is in which this process lives: its container's where there is a limit, else the machine's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


class _Files(NamedTuple):
    limit: str
    used: str
    reclaimable: str  # line of memory.stat: cached files that nobody has read lately, which the kernel drops before it is short


VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")
VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def used_percent() -> float:
    """Of the fullest of the limits that hold for this process, the limits of enclosing control groups included."""
    machine = psutil.virtual_memory()
    limited = [percent for folder, files in _groups() if (percent := _percent(folder, files, machine.total)) is not None]
    return max(limited, default=machine.percent)


def _groups() -> Iterator[tuple[Path, _Files]]:
    """The control groups of this process. Those that a container can't see are left out as their files are not there."""
    with suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, files = CGROUPS, VERSION_2
            elif "memory" in controllers.split(","):
                root, files = CGROUPS / "memory", VERSION_1
            else:
                continue
            folder = root / path.lstrip("/")
            yield from ((group, files) for group in (folder, *folder.parents) if group.is_relative_to(root))


def _percent(folder: Path, files: _Files, machine_bytes: int) -> float | None:
    """None without a limit: "max", in version 1 a number beyond the machine's memory, or no file at all."""
    try:
        limit = int((folder / files.limit).read_text())
        used = int((folder / files.used).read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        reclaimable = int(facts[files.reclaimable])
    except (OSError, ValueError, KeyError):
        return None
    return max(0, used - reclaimable) / limit * 100 if 0 < limit <= machine_bytes else None
