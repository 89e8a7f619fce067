"""Reads many blobs in one git process and in bounded memory."""

from collections.abc import Iterable, Iterator
from typing import IO

from app.analysis.git import CHUNK_BYTES, GitError, GitRepository

BINARY_CHECK_BYTES = 8000  # git takes a file for binary if these first bytes contain a NUL
OBJECT_ID_LENGTH = 40  # or more; of a missing object git prints the ID instead of the size


class Blob:
    """A blob that is being read. `note` is what followed the object ID, `size` the number of bytes, `begin` the first of them."""

    def __init__(self, output: IO[bytes], note: bytes, size: int, max_bytes: int) -> None:
        self.note = note
        self.size = size
        self.begin = output.read(min(size, max_bytes))
        self._output = output
        self._remaining = size - len(self.begin)

    @property
    def is_binary(self) -> bool:
        return b"\0" in self.begin[:BINARY_CHECK_BYTES]

    def count_lines(self) -> int:
        """Return the number of lines, including an unterminated last line. Can be called once, before the next blob is read."""
        count, last = self.begin.count(b"\n"), self.begin[-1:]
        for chunk in self.rest():
            count += chunk.count(b"\n")
            last = chunk[-1:]
        return count + (last not in (b"\n", b""))

    def rest(self) -> Iterator[bytes]:
        """Yield what follows `begin` in chunks. Can be called once, before the next blob is read."""
        while self._remaining and (chunk := self._output.read(min(self._remaining, CHUNK_BYTES))):
            self._remaining -= len(chunk)
            yield chunk


def read_blobs(repository: GitRepository, lines: Iterable[bytes], max_begin_bytes: int) -> Iterator[Blob]:
    """Yield a blob for each line, which is `OBJECT-ID\\n` or `OBJECT-ID NOTE\\n`. Raises GitError if an object is missing."""
    with repository.stream("cat-file", "--batch=%(objectsize) %(rest)", input=iter(lines)) as output:
        while header := output.readline():
            size, _, note = header.removesuffix(b"\n").partition(b" ")
            if not size.isdigit() or len(size) >= OBJECT_ID_LENGTH:
                raise GitError("an object of HEAD is missing")
            blob = Blob(output, note, int(size), max_begin_bytes)
            yield blob
            for _ in blob.rest():
                pass
            output.read(1)
