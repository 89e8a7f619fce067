"""Reads the beginnings of some files of a commit."""

from collections.abc import Sequence

from app.analysis.git import CHUNK_BYTES, GitRepository

MAX_TEXT_BYTES = 128 * 1024  # of one file


def read_texts(repository: GitRepository, commit: str, paths: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the beginning of each file by its path, which must not have a line feed. Links inside the tree are followed.

    Submodules, links to folders and links out of the tree are left out. Raises GitError.
    """
    texts = {}
    requests = (commit.encode() + b":" + path + b"\n" for path in paths)
    with repository.stream("cat-file", "--batch", "--follow-symlinks", input=requests) as output:
        for path in paths:
            *kind, size = output.readline().split()[-2:]
            if not size.isdigit():  # "missing", without content
                continue
            text = output.read(min(int(size), MAX_TEXT_BYTES))
            remaining = int(size) - len(text) + 1  # the content ends with a line feed
            while remaining and (rest := output.read(min(remaining, CHUNK_BYTES))):
                remaining -= len(rest)
            if kind == [b"blob"]:
                texts[path] = text
    return texts
