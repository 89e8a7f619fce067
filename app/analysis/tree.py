"""Reads the list of files at HEAD: their number, and files that indicate good practice."""

from dataclasses import dataclass, field
from typing import IO

from app.analysis import practices
from app.analysis.git import GitRepository
from app.analysis.languages import MAX_LICENSE_BYTES, spdx_id
from app.analysis.practices import LINTER_SECTIONS

REGULAR, SUBMODULE = b"100", b"160000"  # prefixes of file modes


@dataclass
class TreeFiles:
    count: int = 0
    practices: dict[str, bytes | None] = field(default_factory=practices.no_practices)
    objects: dict[bytes, str] = field(default_factory=dict)  # object IDs by path, of the files whose content is needed

    def add(self, mode: bytes, name: bytes, path: bytes) -> None:
        self.count += 1
        if mode == SUBMODULE:
            return
        practices.record_path(self.practices, path)
        if path in LINTER_SECTIONS or path == self.practices["license"]:
            self.objects[path] = name.decode()


def read_files(repository: GitRepository, head: str, regular: IO[bytes]) -> TreeFiles:
    """Read the list of tracked files. Write a line to `regular` for each regular file: see `line_of`."""
    found = TreeFiles()
    for record in repository.records("ls-tree", "-r", "-z", head, end=b"\0"):
        entry, _, path = record.partition(b"\t")
        mode, _, name = entry.split(b" ")
        found.add(mode, name, path)
        if mode.startswith(REGULAR):
            regular.write(line_of(name, path))
    if found.practices["linter"] is None:
        found.practices["linter"] = _find_linter_section(repository, found)
    return found


def line_of(name: bytes, path: bytes) -> bytes:
    """Return a line with an object ID and a path. As no path contains `//`, it stands for a line feed there."""
    return b"%s %s\n" % (name, path.replace(b"\n", b"//"))


def path_of(text: bytes) -> bytes:
    """Return the path in such a line."""
    return text.removesuffix(b"\n").replace(b"//", b"\n")


def find_license(repository: GitRepository, found: TreeFiles) -> str | None:
    path = found.practices["license"]
    return None if path is None else spdx_id(_first_bytes(repository, found.objects[path]))


def _find_linter_section(repository: GitRepository, found: TreeFiles) -> bytes | None:
    for path, section in LINTER_SECTIONS.items():
        if path in found.objects and section.search(_first_bytes(repository, found.objects[path])):
            return path
    return None


def _first_bytes(repository: GitRepository, name: str) -> bytes:
    with repository.stream("cat-file", "blob", name) as output:
        return output.read(MAX_LICENSE_BYTES)
