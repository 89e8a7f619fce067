"""Finds local repositories, and makes them readable for git without a copy of their packs.

git follows symbolic links, `.git` files, `commondir` and `objects/info/alternates`. Here each file is opened first, and the path
of the opened file must be below one of the roots. git gets a bare repository of our own, so later changes can't lead it
elsewhere: small files are copied, and large ones are links to the open files of this process, `/proc/PID/fd/N`.
"""

import os
import re
import stat
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from app.analysis import git
from app.analysis.failures import AnalysisError
from app.analysis.git import GitRepository
from app.analysis.history import find_head

MAX_TEXT_BYTES = 65_536  # of HEAD, `.git`, commondir and alternates
MAX_OBJECT_FOLDERS = 100
MAX_COPIED_BYTES = 65_536  # of a file with objects; larger ones are linked

_LOOSE_OBJECTS = re.compile("[0-9a-f]{2}")
# Without partialclone, which names a remote from which git could fetch.
_FORMAT_SETTING = re.compile(r"core\.repositoryformatversion|extensions\.(?!partialclone$).*")
# Not an option of `git config`, and not a folder: newer versions of git read refs from one that the setting `refStorage` names.
_FORMAT_VALUE = re.compile(r"\w*", re.ASCII)
_PARTIAL_CLONE = re.compile(r"extensions\.partialclone|remote\..*\.promisor")


class LocalRepository:
    """The files of a repository that git would read. Raises OSError or ValueError if it is none, or leads out of the roots."""

    def __init__(self, path: Path, roots: Sequence[Path]) -> None:
        self._roots = [str(root.resolve()) for root in roots]
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

    def make_readable(self, target: Path, max_bytes: int) -> GitRepository:
        """Create a bare repository with the refs and objects. It can be read as long as the returned object exists.

        Raises OSError, GitError, and AnalysisError. FileNotFoundError: the repository was repacked meanwhile.
        """
        snapshot = _Snapshot(self, max_bytes)
        repository = GitRepository(target)
        weakref.finalize(repository, _close, snapshot.descriptors)
        (target / "objects" / "pack").mkdir(parents=True)
        (target / "objects" / "info").mkdir()
        (target / "HEAD").write_bytes(self._head)
        # In the order in which git reads them, because the repository may change: objects move from files to packs.
        snapshot.copy(self._common / "refs", target / "refs")
        for name in ("packed-refs", "shallow", "config"):
            if os.path.lexists(self._common / name):
                snapshot.copy(self._common / name, target / name)
        for folder in self._object_folders:
            snapshot.add_loose_objects(folder, target / "objects")
        for folder in self._object_folders:
            snapshot.add_packs(folder, target / "objects")
            snapshot.add_commit_graph(folder, target / "objects")
        is_partial = _keep_format_settings(target / "config")
        if self._read_optional(self._common / "info" / "grafts"):
            raise AnalysisError("This repository has grafts (info/grafts), which git can't clone.", permanent=True)
        if is_partial:
            _refuse_missing_objects(repository, "--all")
        elif snapshot.has_promisor_packs and (head := find_head(repository)):
            _refuse_missing_objects(repository, "--no-walk", head)
        repository.output("rev-parse", "--git-dir")  # fails if git does not know an extension
        return repository

    @contextmanager
    def open(self, path: Path) -> Iterator[Path]:
        """Yield a path that leads to the checked file or folder, whatever changes. Raises OSError if it is not below a root."""
        descriptor = self.open_descriptor(path)
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def open_descriptor(self, path: Path | str) -> int:
        """Return a descriptor of a file or folder, which the caller closes. Raises OSError if it is not below a root."""
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        opened = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - faster, and called for each object
        if not any(opened == root or opened.startswith(root.rstrip("/") + "/") for root in self._roots):
            os.close(descriptor)
            raise PermissionError("a local repository leads out of REPOSITORY_ROOTS")
        return descriptor

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


class _Snapshot:
    """Copies or links the files of a repository. At most `max_bytes` are copied in total."""

    def __init__(self, repository: LocalRepository, max_bytes: int) -> None:
        self.descriptors: list[int] = []  # of linked files
        self.has_promisor_packs = False  # packs from a partial clone, although no remote may be configured by now
        self._repository = repository
        self._max_bytes = max_bytes
        self._remaining = max_bytes
        self._folders: set[Path] = set()

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file, or a folder with everything in it, each folder once."""
        with self._repository.open(source) as opened:
            status = opened.stat()
            if stat.S_ISREG(status.st_mode):
                return self._copy_file(str(opened), status.st_size, str(target))
            if not stat.S_ISDIR(status.st_mode) or opened.readlink() in self._folders:
                return None
            self._folders.add(opened.readlink())
            names = [entry.name for entry in opened.iterdir()]
        target.mkdir(exist_ok=True)
        for name in _without_temporary(names):
            self.copy(source / name, target / name)
        return None

    def add_loose_objects(self, source: Path, target: Path) -> None:
        for folder in self._repository.names(source):
            if _LOOSE_OBJECTS.fullmatch(folder):
                (target / folder).mkdir(exist_ok=True)
                for name in _without_temporary(self._repository.names(source / folder)):
                    with suppress(FileNotFoundError):  # it is in a pack by now, and packs are read later
                        self._add(f"{source}/{folder}/{name}", f"{target}/{folder}/{name}")

    def add_packs(self, source: Path, target: Path) -> None:
        for name in _without_temporary(self._repository.names(source / "pack")):
            if name.endswith((".pack", ".idx")):
                self._add(f"{source}/pack/{name}", f"{target}/pack/{name}")
            self.has_promisor_packs |= name.endswith(".promisor")

    def add_commit_graph(self, source: Path, target: Path) -> None:
        """Add the files from which git reads a history faster: a single one, or a chain of them."""
        if os.path.lexists(source / "info" / "commit-graph"):
            self._add(f"{source}/info/commit-graph", f"{target}/info/commit-graph")
        chain = Path("info", "commit-graphs")
        if os.path.lexists(source / chain):
            (target / chain).mkdir(exist_ok=True)
            for name in _without_temporary(self._repository.names(source / chain)):
                self._add(f"{source}/{chain}/{name}", f"{target}/{chain}/{name}")

    def _add(self, source: str, target: str) -> None:
        """Copy a small file, or link to a large one. Keep a file of this name from another folder: it has the same content.

        There may be tens of thousands of loose objects, so paths are texts here, which are faster than Path.
        """
        descriptor = self._repository.open_descriptor(source)
        is_linked = False
        try:
            status = os.fstat(descriptor)
            with suppress(FileExistsError):
                if stat.S_ISREG(status.st_mode) and status.st_size > MAX_COPIED_BYTES:
                    _link(descriptor, target)
                    is_linked = True
                elif stat.S_ISREG(status.st_mode):
                    self._copy_file(f"/proc/self/fd/{descriptor}", status.st_size, target)
        finally:
            if is_linked:
                self.descriptors.append(descriptor)
            else:
                os.close(descriptor)

    def _copy_file(self, opened: str, size: int, target: str) -> None:
        if size > self._remaining:
            raise too_large(self._max_bytes)
        source = os.open(opened, os.O_RDONLY | os.O_CLOEXEC)
        try:
            copied = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                while chunk := os.read(source, git.CHUNK_BYTES):
                    self._remaining -= len(chunk)  # the size is not enough: files grow, and those in /proc have none
                    if self._remaining < 0:
                        raise too_large(self._max_bytes)
                    while chunk:
                        chunk = chunk[os.write(copied, chunk) :]
            finally:
                os.close(copied)
        finally:
            os.close(source)


def _link(descriptor: int, target: str) -> None:
    """Create a link through which other processes can open the file of a descriptor of this process."""
    if not os.access(f"/proc/self/fd/{descriptor}", os.R_OK):  # otherwise git would report a damaged repository
        raise PermissionError("a file of a local repository is not readable")
    process = Path("/proc/self").readlink()
    Path(target).symlink_to(f"/proc/{process}/fd/{descriptor}")


def _without_temporary(names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if not name.startswith("tmp_") and not name.endswith(".lock"))


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _keep_format_settings(config: Path) -> bool:
    """Remove all settings that do not describe the format of the repository, such as includes of other files.

    Return whether objects may be missing, because git would fetch them when it needs them.
    """
    source = config.rename(config.with_name("original-config")) if config.exists() else None
    # Without a version, git ignores that the repository is bare, and then does not read `.mailmap` from HEAD.
    config.write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    if source is None:
        return False
    arguments = ("--no-includes", "--null", "--list")
    settings = [entry.partition(b"\n") for entry in git.run("config", "--file", str(source), *arguments).split(b"\0")]
    for name, _, value in settings:
        if _FORMAT_SETTING.fullmatch(os.fsdecode(name)):
            if not _FORMAT_VALUE.fullmatch(os.fsdecode(value)):
                raise AnalysisError("This repository has a format (extensions) that can't be read.", permanent=True)
            git.run("config", "--file", str(config), os.fsdecode(name), os.fsdecode(value))
    source.unlink()
    return any(_PARTIAL_CLONE.fullmatch(os.fsdecode(name)) for name, _, _ in settings)


def _refuse_missing_objects(repository: GitRepository, *commits: str) -> None:
    try:
        repository.output("rev-list", "--objects", "--quiet", *commits)
    except git.GitError as error:
        raise AnalysisError(f"git can't read this partial clone: {git.reason(error.stderr)}", permanent=True) from None


def too_large(max_bytes: int) -> AnalysisError:
    return AnalysisError(f"The repository is larger than {max_bytes / 1024**2:g} MB.", permanent=True)
