"""Counts the lines of text at HEAD by language, and the files that do not count by kind."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from app.analysis.attributes import FILE_NAME as ATTRIBUTES_NAME
from app.analysis.attributes import read_attributes
from app.analysis.blobs import Blob, read_blobs
from app.analysis.git import GitRepository
from app.analysis.linguist.classification import Attributes, classify, kind_of_path
from app.analysis.linguist.detection import CONSIDERED_BYTES
from app.analysis.practices import InlineTests
from app.analysis.progress import Progress
from app.analysis.tree import path_of

OTHER_KINDS = ("vendored", "generated", "documentation", "data", "prose", "unknown")

_FLAG_LETTERS = {None: b"-", False: b"0", True: b"1"}
_FLAGS = {ord(letter): flag for flag, letter in _FLAG_LETTERS.items()}


@dataclass
class LineCounts:
    """Lines by language, numbers of files by kind, and the files with tests beside other code."""

    languages: Counter[str] = field(default_factory=Counter)
    other_files: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(OTHER_KINDS, 0)))
    inline_tests: InlineTests = field(default_factory=InlineTests)

    def add(self, blob: Blob) -> None:
        """Add a file. Nothing is counted of empty and binary ones."""
        if blob.size == 0 or blob.is_binary:
            return
        attributes, path = _parse_note(blob.note)
        language, kind = classify(path, blob.begin, blob.size, attributes)
        if language:
            self.languages[language] += blob.count_lines()
            self.inline_tests.add(path, language, blob.begin)
        elif kind:
            self.other_files[kind] += 1

    def by_size(self) -> dict[str, int]:
        """Return the languages, most lines first."""
        return dict(sorted(self.languages.items(), key=lambda item: (-item[1], item[0])))


def count_lines(repository: GitRepository, head: str, regular: Path, contents: IO[bytes], progress: Progress) -> LineCounts:
    """Count the files that `tree.read_files` wrote to the file `regular`. `contents` is a temporary file."""
    found = LineCounts()
    total = 0
    for name, path, attributes in with_attributes(repository, head, regular):
        if kind := kind_of_path(path_of(path), attributes):
            found.other_files[kind] += 1
        else:
            contents.write(b"%s %s %s" % (name, _note_of(attributes), path))
            total += 1
    contents.seek(0)
    for done, blob in enumerate(read_blobs(repository, contents, CONSIDERED_BYTES), 1):
        found.add(blob)
        progress.advance(done, total)
    return found


def with_attributes(repository: GitRepository, head: str, regular: Path) -> Iterator[tuple[bytes, bytes, Attributes]]:
    """Yield the object ID, the encoded path (see `tree.path_of`) and the attributes of each line of the file."""
    with regular.open("rb") as lines, regular.open("rb") as lines_for_git, regular.open("rb") as candidates:
        files = (name + b"\n" for name, path in _split(candidates) if path.endswith(ATTRIBUTES_NAME + b"\n"))
        paths = (path_of(path) for _, path in _split(lines_for_git))
        for (name, path), attributes in zip(_split(lines), read_attributes(repository, head, paths, files), strict=False):
            yield name, path, attributes


def _split(lines: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for line in lines:
        name, _, path = line.partition(b" ")
        yield name, path


def _note_of(attributes: Attributes) -> bytes:
    """Encode the attributes that matter later, without white space."""
    language = (attributes.language or "").encode()
    return _FLAG_LETTERS[attributes.generated] + _FLAG_LETTERS[attributes.detectable] + language


def _parse_note(note: bytes) -> tuple[Attributes, bytes]:
    word, _, path = note.partition(b" ")
    language = word[2:].decode() or None
    return Attributes(generated=_FLAGS[word[0]], detectable=_FLAGS[word[1]], language=language), path_of(path)
