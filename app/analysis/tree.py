"""Reads the files at HEAD: their number, lines by language, and files that indicate good practice."""

from collections import Counter
from dataclasses import dataclass, field
from typing import IO

from app.analysis import practices
from app.analysis.git import CHUNK_BYTES, GitError, GitRepository, decode_name
from app.analysis.languages import MAX_LICENSE_BYTES, language_of, spdx_id
from app.analysis.practices import LINTER_SECTIONS
from app.analysis.progress import Progress

REGULAR, SUBMODULE = b"100", b"160000"  # prefixes of file modes
BINARY_CHECK_BYTES = 8000  # git takes a file for binary if these first bytes contain a NUL


@dataclass
class TreeFiles:
    count: int = 0
    countable: int = 0  # files of a known language, whose lines are counted
    practices: dict[str, bytes | None] = field(default_factory=practices.no_practices)
    objects: dict[bytes, str] = field(default_factory=dict)  # object IDs by path, of the files whose content is needed

    def add(self, mode: bytes, name: bytes, path: bytes) -> None:
        self.count += 1
        if mode == SUBMODULE:
            return
        practices.record_path(self.practices, path)
        if path in LINTER_SECTIONS or path == self.practices["license"]:
            self.objects[path] = name.decode()


def read_files(repository: GitRepository, head: str, texts: IO[bytes]) -> TreeFiles:
    """Read the list of tracked files. Write a line to `texts` for each file of a known language: object ID and language."""
    found = TreeFiles()
    for record in repository.records("ls-tree", "-r", "-z", head, end=b"\0"):
        entry, _, path = record.partition(b"\t")
        mode, _, name = entry.split(b" ")
        found.add(mode, name, path)
        if mode.startswith(REGULAR) and (language := language_of(decode_name(path))):
            found.countable += 1
            texts.write(name + b" " + language.encode() + b"\n")
    if found.practices["linter"] is None:
        found.practices["linter"] = _find_linter_section(repository, found)
    return found


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


def count_lines_by_language(repository: GitRepository, texts: IO[bytes], total: int, progress: Progress) -> dict[str, int]:
    """Return the lines by language, most lines first. `texts` was written by `read_files`."""
    found: Counter[str] = Counter()
    texts.seek(0)
    with repository.stream("cat-file", "--batch=%(objectsize) %(rest)", input=iter(texts)) as output:
        for done, header in enumerate(iter(output.readline, b""), 1):
            size, _, language = header.rstrip(b"\n").partition(b" ")
            if not size.isdigit():
                raise GitError("an object of HEAD is missing")
            found[language.decode()] += count_lines(output, int(size))
            output.read(1)
            progress.advance(done, total)
    return dict(sorted(((name, count) for name, count in found.items() if count), key=lambda item: (-item[1], item[0])))


def count_lines(output: IO[bytes], size: int) -> int:
    """Count the lines in the next `size` bytes, including an unterminated last line. Binary content has 0 lines."""
    count, last, remaining, is_binary = 0, b"\n", size, False
    while remaining and (chunk := output.read(min(remaining, CHUNK_BYTES))):
        is_binary = is_binary or (remaining == size and b"\0" in chunk[:BINARY_CHECK_BYTES])
        count += chunk.count(b"\n")
        last, remaining = chunk[-1:], remaining - len(chunk)
    return 0 if is_binary else count + (last != b"\n")
