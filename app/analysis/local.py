"""Finds and copies local repositories.

git follows symbolic links, `.git` files, `commondir` and `objects/info/alternates`. Here each file is opened first, and the path
of the opened file must be below one of the roots. git gets a copy, so later changes can't lead it elsewhere.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.analysis import git
from app.analysis.failures import AnalysisError

MAX_TEXT_BYTES = 65_536  # of HEAD, `.git`, commondir and alternates
MAX_OBJECT_FOLDERS = 100

_LOOSE_OBJECTS = re.compile("[0-9a-f]{2}")
_PACK_FILES = re.compile(r"pack-[0-9a-f]+\.(pack|idx|promisor)")
# Without partialclone, which names a remote from which git could fetch.
_FORMAT_SETTING = re.compile(r"core\.repositoryformatversion|extensions\.(?!partialclone$).*")


class LocalRepository:
    """The files of a repository that git would read. Raises OSError or ValueError if it is none, or leads out of the roots."""

    def __init__(self, path: Path, roots: Sequence[Path]) -> None:
        self._roots = [root.resolve() for root in roots]
        git_folder = self._find_git_folder(path)
        self._head = self._read_head(git_folder / "HEAD")
        common = self._read_optional(git_folder / "commondir")
        self._common = git_folder if common is None else git_folder / common.rstrip("\r\n")
        self._object_folders = self._find_object_folders(self._common / "objects")
        for name in ("refs", "packed-refs", "shallow", "config", "info/grafts"):
            if name == "refs" or os.path.lexists(self._common / name):
                self._check(self._common / name)
        for folder in self._object_folders:
            self._check_links(folder)
            self._check_links(folder / "pack")

    def copy(self, target: Path, max_bytes: int) -> None:
        """Copy the files into a new bare repository. Raises OSError, GitError, and AnalysisError if they are too large."""
        copied = _Copy(self, max_bytes)
        (target / "objects" / "pack").mkdir(parents=True)
        (target / "HEAD").write_bytes(self._head)
        # In the order in which git reads them, because the repository may change: objects move from files to packs.
        copied.add(self._common / "refs", target / "refs")
        for name in ("packed-refs", "shallow", "config"):
            if os.path.lexists(self._common / name):
                copied.add(self._common / name, target / name)
        for folder in self._object_folders:
            for name in self.names(folder):
                if _LOOSE_OBJECTS.fullmatch(name):
                    copied.add(folder / name, target / "objects" / name)
        for folder in self._object_folders:
            for name in self.names(folder / "pack"):
                if _PACK_FILES.fullmatch(name):
                    copied.add(folder / "pack" / name, target / "objects" / "pack" / name)
        _keep_format_settings(target / "config")
        if self._read_optional(self._common / "info" / "grafts"):
            raise AnalysisError("This repository has grafts (info/grafts), which git can't clone.", permanent=True)

    @contextmanager
    def open(self, path: Path) -> Iterator[Path]:
        """Yield a path that leads to the checked file or folder, whatever changes. Raises OSError if it is not below a root."""
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            opened = Path(f"/proc/self/fd/{descriptor}")
            if not any(opened.readlink().is_relative_to(root) for root in self._roots):
                raise PermissionError("a local repository leads out of REPOSITORY_ROOTS")
            yield opened
        finally:
            os.close(descriptor)

    def names(self, path: Path) -> list[str]:
        with self.open(path) as opened:
            return [entry.name for entry in opened.iterdir()]

    def _check(self, path: Path) -> None:
        with self.open(path):
            pass

    def _check_links(self, folder: Path) -> None:
        with self.open(folder) as opened, os.scandir(opened) as entries:
            for entry in entries:
                if entry.is_symlink():
                    self._check(folder / entry.name)

    def _read(self, path: Path) -> str:
        with self.open(path) as opened:
            if not stat.S_ISREG(opened.stat().st_mode):
                raise ValueError("not a file")
            with opened.open("rb") as file:
                return os.fsdecode(file.read(MAX_TEXT_BYTES))

    def _read_optional(self, path: Path) -> str | None:
        return self._read(path) if os.path.lexists(path) else None

    def _read_head(self, path: Path) -> bytes:
        """Old versions of git made a symbolic link of HEAD, to a branch that may not exist yet."""
        if path.is_symlink() and (branch := str(path.readlink())).startswith("refs/"):
            return os.fsencode(f"ref: {branch}\n")
        return os.fsencode(self._read(path))

    def _find_git_folder(self, path: Path) -> Path:
        entry = path / ".git"
        if not os.path.lexists(entry):
            return path
        with self.open(entry) as opened:
            if opened.is_dir():
                return entry
        text = self._read(entry)
        if not text.startswith("gitdir: "):
            raise ValueError("not a .git file")
        return path / text.removeprefix("gitdir: ").rstrip("\r\n")

    def _find_object_folders(self, first: Path) -> Sequence[Path]:
        """Return the folder of objects and its alternates, which may have alternates themselves."""
        found: dict[Path, Path] = {}
        waiting = [first]
        while waiting:
            folder = waiting.pop()
            with self.open(folder) as opened:
                identity = opened.readlink()
            if identity in found:
                continue
            if len(found) == MAX_OBJECT_FOLDERS:
                raise ValueError("too many alternates")
            found[identity] = folder
            for line in (self._read_optional(folder / "info" / "alternates") or "").splitlines():
                if line and not line.startswith("#"):
                    waiting.append(folder / line)
        return list(found.values())


class _Copy:
    """Copies files and folders of a repository, each folder once and at most `max_bytes` in total."""

    def __init__(self, repository: LocalRepository, max_bytes: int) -> None:
        self._repository = repository
        self._max_bytes = max_bytes
        self._remaining = max_bytes
        self._folders: set[Path] = set()

    def add(self, source: Path, target: Path) -> None:
        with self._repository.open(source) as opened:
            status = opened.stat()
            if stat.S_ISREG(status.st_mode):
                self._remaining -= status.st_size
                if self._remaining < 0:
                    raise too_large(self._max_bytes)
                with opened.open("rb") as content, target.open("wb") as copied:
                    shutil.copyfileobj(content, copied)
                return
            if not stat.S_ISDIR(status.st_mode) or opened.readlink() in self._folders:
                return
            self._folders.add(opened.readlink())
            names = [entry.name for entry in opened.iterdir()]
        target.mkdir(exist_ok=True)
        for name in names:
            if not name.startswith("tmp_") and not name.endswith(".lock"):
                self.add(source / name, target / name)


def _keep_format_settings(config: Path) -> None:
    """Remove all settings that do not describe the format of the repository, such as includes of other files."""
    source = config.rename(config.with_name("original-config")) if config.exists() else None
    config.write_text("[core]\n\tbare = true\n")
    if source is None:
        return
    arguments = ("--no-includes", "--null", "--list")
    for entry in git.run("config", "--file", str(source), *arguments).split(b"\0"):
        name, _, value = entry.partition(b"\n")
        if _FORMAT_SETTING.fullmatch(os.fsdecode(name)):
            git.run("config", "--file", str(config), os.fsdecode(name), os.fsdecode(value))
    source.unlink()


def too_large(max_bytes: int) -> AnalysisError:
    return AnalysisError(f"The repository is larger than {max_bytes / 1024**2:g} MB.", permanent=True)
