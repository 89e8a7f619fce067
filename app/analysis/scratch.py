"""Folders for clones: private, and removed in the end, if need be by whoever comes later: `python -m app.analysis.scratch`."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LOCK = "lock"

_removing = threading.Lock()


def base() -> Path:
    """Of this user alone: others could put links there."""
    base = Path(tempfile.gettempdir()) / f"reporadar-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    about = base.lstat()
    if about.st_uid != os.getuid() or base.is_symlink() or about.st_mode & 0o077:
        raise PermissionError(f"{base} belongs to somebody else, or is open to others")
    return base


@contextmanager
def folder() -> Iterator[Path]:
    """A new one, which is held by a lock as long as this process lives."""
    path, lock = _create()
    try:
        yield path
    finally:
        remove(path)
        lock.close()


def remove(path: Path) -> None:
    """Two threads at once are as good as one: both return when it is gone."""
    with _removing:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned() -> None:
    """What processes left behind that were killed: their locks are free."""
    with _turn() as folder:
        _remove_abandoned(folder)


def _create() -> tuple[Path, IO[str]]:
    with _turn() as folder:
        _remove_abandoned(folder)
        path = Path(tempfile.mkdtemp(dir=folder))
        lock = (path / LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return path, lock


@contextmanager
def _turn() -> Iterator[Path]:
    """One at a time: a new folder is not locked yet when it comes into being."""
    folder = base()
    with (folder / LOCK).open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield folder


def _remove_abandoned(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(NotADirectoryError):
            if _is_abandoned(path / LOCK):
                remove(path)


def _is_abandoned(path: Path) -> bool:
    try:
        with path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # its process ended before it could lock it
        pass
    return True


if __name__ == "__main__":
    remove_abandoned()
