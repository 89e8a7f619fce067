"""The files at the head of the repository: how many, in which languages, and which of them are signs of good practice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import IO

from app.analysis import practices
from app.analysis.git import CHUNK_BYTES, GitError, Repository, readable
from app.analysis.languages import MAX_LICENSE_BYTES, language_of, spdx_id
from app.analysis.practices import LINTER_SECTIONS
from app.analysis.progress import Progress

REGULAR, SUBMODULE = b"100", b"160000"  # how the modes begin
BINARY_WITHIN_BYTES = 8000  # where git looks for a NUL


@dataclass
class Files:
    count: int = 0
    counted: int = 0  # of these the lines are to be counted
    practices: dict[str, bytes | None] = field(default_factory=practices.none)
    objects: dict[bytes, str] = field(default_factory=dict)  # of the files that are looked into, by path

    def add(self, mode: bytes, name: bytes, path: bytes) -> None:
        self.count += 1
        if mode == SUBMODULE:
            return
        practices.notice(self.practices, path)
        if path in LINTER_SECTIONS or path == self.practices["license"]:
            self.objects[path] = name.decode()


def files_of(repository: Repository, head: str, texts: IO[bytes]) -> Files:
    """Everything that is tracked. Into `texts` goes a line for each file of a known language: its object and the language."""
    found = Files()
    for record in repository.records("ls-tree", "-r", "-z", head, end=b"\0"):
        about, _, path = record.partition(b"\t")
        mode, _, name = about.split(b" ")
        found.add(mode, name, path)
        if mode.startswith(REGULAR) and (language := language_of(readable(path))):
            found.counted += 1
            texts.write(name + b" " + language.encode() + b"\n")
    if found.practices["linter"] is None:
        found.practices["linter"] = _with_linter(repository, found)
    return found


def license_of(repository: Repository, found: Files) -> str | None:
    path = found.practices["license"]
    return None if path is None else spdx_id(_beginning(repository, found.objects[path]))


def _with_linter(repository: Repository, found: Files) -> bytes | None:
    candidates = (path for path in LINTER_SECTIONS if path in found.objects)
    return next((path for path in candidates if LINTER_SECTIONS[path].search(_beginning(repository, found.objects[path]))), None)


def _beginning(repository: Repository, name: str) -> bytes:
    with repository.stream("cat-file", "blob", name) as output:
        return output.read(MAX_LICENSE_BYTES)


def lines_of(repository: Repository, texts: IO[bytes], total: int, progress: Progress) -> dict[str, int]:
    """Lines of text by language, most first; of what `files_of` has written."""
    found: Counter[str] = Counter()
    texts.seek(0)
    with repository.stream("cat-file", "--batch=%(objectsize) %(rest)", feed=iter(texts)) as output:
        for done, header in enumerate(iter(output.readline, b""), 1):
            size, _, language = header.rstrip(b"\n").partition(b" ")
            if not size.isdigit():
                raise GitError("an object is missing")
            found[language.decode()] += lines(output, int(size))
            output.read(1)
            progress.advance(done, total)
    return dict(sorted(((name, count) for name, count in found.items() if count), key=lambda item: (-item[1], item[0])))


def lines(output: IO[bytes], size: int) -> int:
    """Of the next `size` bytes, a last line without an end included; 0 where git would take them for binary."""
    count, last, left, binary = 0, b"\n", size, False
    while left and (chunk := output.read(min(left, CHUNK_BYTES))):
        binary = binary or (left == size and b"\0" in chunk[:BINARY_WITHIN_BYTES])
        count += chunk.count(b"\n")
        last, left = chunk[-1:], left - len(chunk)
    return 0 if binary else count + (last != b"\n")
