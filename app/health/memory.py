"""How full the memory is that this process can use: that of its container if it has a limit, else that of the machine."""

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
    reclaimable: str  # line of memory.stat: file cache that the kernel frees before memory runs out


VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")
VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def used_percent() -> float:
    """Return the highest use of all memory limits that apply to this process, including those of parent control groups."""
    machine = psutil.virtual_memory()
    percents = [percent for folder, files in _groups() if (percent := _percent(folder, files, machine.total)) is not None]
    return max(percents, default=machine.percent)


def _groups() -> Iterator[tuple[Path, _Files]]:
    """Yield the control groups of this process. A container has no files of those outside of it."""
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
    """Return None if there is no limit: "max", in version 1 a number above the memory of the machine, or no file."""
    try:
        limit = int((folder / files.limit).read_text())
        used = int((folder / files.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        reclaimable = int(stat[files.reclaimable])
    except (OSError, ValueError, KeyError):
        return None
    return max(0, used - reclaimable) / limit * 100 if 0 < limit <= machine_bytes else None
