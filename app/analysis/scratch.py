"""Private temporary folders for clones. `python -m app.analysis.scratch` removes the folders of killed processes."""

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

_removal = threading.Lock()


def base_folder() -> Path:
    """Return the folder of all clones. It must be private, because other users could place symbolic links in it."""
    base = Path(tempfile.gettempdir()) / f"reporadar-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or base.is_symlink() or status.st_mode & 0o077:
        raise PermissionError(f"{base} belongs to another user or is accessible to others; remove it or change its mode to 700")
    return base


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder that is locked while this process lives, and remove it at the end."""
    path, lock = _create()
    try:
        yield path
    finally:
        remove(path)
        lock.close()


def remove(path: Path) -> None:
    """Remove a folder. Several threads may do so at once; each call returns when the folder no longer exists."""
    with _removal:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the folders of processes that were killed: nobody holds their locks."""
    with _locked_base() as base:
        _remove_abandoned(base)


def _create() -> tuple[Path, IO[str]]:
    with _locked_base() as base:
        _remove_abandoned(base)
        path = Path(tempfile.mkdtemp(dir=base))
        lock = (path / LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return path, lock


@contextmanager
def _locked_base() -> Iterator[Path]:
    """Lock the base folder, so that no process sees a new folder before it is locked."""
    base = base_folder()
    with (base / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield base


def _remove_abandoned(base: Path) -> None:
    for path in base.iterdir():
        with suppress(NotADirectoryError):
            if _is_abandoned(path / LOCK):
                remove(path)


def _is_abandoned(path: Path) -> bool:
    try:
        with path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # its process was killed before it created the lock
        pass
    return True


if __name__ == "__main__":
    remove_abandoned()
