"""Reads what the `.gitattributes` files of a tree tell Linguist."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

from app.analysis.blobs import read_blobs
from app.analysis.git import GitError, GitRepository
from app.analysis.linguist.classification import Attributes

FILE_NAME = b".gitattributes"
MAX_BYTES = 1024**2  # of such a file that are searched for the word

_WORD = b"linguist"
_NAMES = ("linguist-vendored", "linguist-documentation", "linguist-generated", "linguist-detectable", "linguist-language")
_FLAGS = {b"unspecified": None, b"unset": False, b"false": False}  # any other value is true, as it is for Linguist
_NO_LANGUAGE = (b"unspecified", b"unset", b"set")


def read_attributes(repository: GitRepository, head: str, paths: Iterable[bytes], files: Iterable[bytes]) -> Iterator[Attributes]:
    """Yield the attributes of each path of a commit. `files` are lines with the object IDs of its `.gitattributes` files."""
    if not any(_WORD in blob.begin for blob in read_blobs(repository, files, MAX_BYTES)):
        yield from repeat(Attributes())
    with tempfile.TemporaryDirectory() as folder:
        # git 2.39 can read attributes from an index, but not from a tree.
        with_index = GitRepository(repository.path, {"GIT_INDEX_FILE": str(Path(folder) / "index")})
        try:
            with_index.output("-c", "core.protectNTFS=false", "-c", "core.protectHFS=false", "read-tree", head)
        except GitError:  # a path that an index may not contain, such as one with `..`
            yield from repeat(Attributes())
        yield from _check_attributes(with_index, paths)


def _check_attributes(repository: GitRepository, paths: Iterable[bytes]) -> Iterator[Attributes]:
    names = (path + b"\0" for path in paths)
    fields = repository.records("check-attr", "--cached", "--stdin", "-z", *_NAMES, end=b"\0", input=names)
    values = (value for _, _, value in zip(fields, fields, fields, strict=True))
    for *flags, language in zip(*[values] * len(_NAMES), strict=True):
        vendored, documentation, generated, detectable = (_FLAGS.get(flag, True) for flag in flags)
        name = None if language in _NO_LANGUAGE else language.decode(errors="replace")
        yield Attributes(vendored, documentation, generated, detectable, name)
