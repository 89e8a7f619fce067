"""Reads what the `.gitattributes` files of a tree tell Linguist."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from pathlib import Path

from app.analysis.blobs import read_blobs
from app.analysis.git import CpuTimeExceeded, GitError, GitRepository
from app.analysis.linguist.classification import Attributes

FILE_NAME = b".gitattributes"
MAX_BYTES = 1024**2  # of such a file that are searched for the names
MAX_CPU_SECONDS = 20  # of git, which compares a path with a pattern of many `*` in exponential time

_NAMES = Attributes._fields
_FLAGS = {b"unspecified": None, b"unset": False, b"false": False}  # any other value is true, as it is for Linguist
_NO_LANGUAGE = (b"unspecified", b"unset", b"set")


def read_attributes(repository: GitRepository, head: str, paths: Iterable[bytes], files: Iterable[bytes]) -> Iterator[Attributes]:
    """Yield the attributes of each path of a commit, or without end empty ones if none of its `.gitattributes` files names any.

    `files` are lines with the object IDs of these files. If these take git too long, the remaining paths have no attributes.
    """
    names = _mentioned_names(repository, files)
    return _check_attributes(repository, head, paths, names) if names else repeat(Attributes())


def _mentioned_names(repository: GitRepository, files: Iterable[bytes]) -> Sequence[str]:
    """Return the attributes that occur in the files. git is not asked for others, as it prints each attribute of each path."""
    found: set[str] = set()
    for blob in read_blobs(repository, files, MAX_BYTES):
        found |= {name for name in _NAMES if f"linguist-{name}".encode() in blob.begin}
    return sorted(found)


def _check_attributes(repository: GitRepository, head: str, paths: Iterable[bytes], names: Sequence[str]) -> Iterator[Attributes]:
    with tempfile.TemporaryDirectory() as folder:
        # git 2.39 can read attributes from an index, but not from a tree.
        with_index = GitRepository(repository.path, {"GIT_INDEX_FILE": str(Path(folder) / "index")}, MAX_CPU_SECONDS)
        try:
            with_index.output("-c", "core.protectNTFS=false", "-c", "core.protectHFS=false", "read-tree", head)
        except GitError:  # a path that an index may not contain, such as one with `..`
            yield from repeat(Attributes())
        attributes = [f"linguist-{name}" for name in names]
        input = (path + b"\0" for path in paths)
        fields = with_index.records("check-attr", "--cached", "--stdin", "-z", *attributes, end=b"\0", input=input)
        values = (value for _, _, value in zip(fields, fields, fields, strict=True))  # path, attribute, value
        try:
            for row in zip(*[values] * len(names), strict=True):
                yield _parse(tuple(names), row)
        except CpuTimeExceeded:
            yield from repeat(Attributes())


@lru_cache(maxsize=1024)
def _parse(names: tuple[str, ...], row: tuple[bytes, ...]) -> Attributes:
    values = dict(zip(names, row, strict=True))
    language = values.get("language", b"unspecified")
    vendored, documentation, generated, detectable = (_FLAGS.get(values.get(name, b"unspecified"), True) for name in _NAMES[:-1])
    name = None if language in _NO_LANGUAGE else language.decode(errors="replace")
    return Attributes(vendored, documentation, generated, detectable, name)
