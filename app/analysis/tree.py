"""Reads the list of files at HEAD: their number, and the paths that say something about practices and licences."""

from dataclasses import dataclass, field
from typing import IO

from app.analysis.git import GitRepository
from app.analysis.practices import IndicatorFiles

REGULAR, SUBMODULE = b"100", b"160000"  # prefixes of file modes


@dataclass
class TreeFiles:
    count: int = 0
    indicators: IndicatorFiles = field(default_factory=IndicatorFiles)


def read_files(repository: GitRepository, head: str, regular: IO[bytes]) -> TreeFiles:
    """Read the list of tracked files. Write a line to `regular` for each regular file: see `line_of`."""
    found = TreeFiles()
    for record in repository.records("ls-tree", "-r", "-z", head, end=b"\0"):
        entry, _, path = record.partition(b"\t")
        mode, _, name = entry.split(b" ")
        found.count += 1
        if mode != SUBMODULE:
            found.indicators.add(path)
        if mode.startswith(REGULAR):
            regular.write(line_of(name, path))
    return found


def line_of(name: bytes, path: bytes) -> bytes:
    """Return a line with an object ID and a path. As no path contains `//`, it stands for a line feed there."""
    return b"%s %s\n" % (name, path.replace(b"\n", b"//"))


def path_of(text: bytes) -> bytes:
    """Return the path in such a line."""
    return text.removesuffix(b"\n").replace(b"//", b"\n")
