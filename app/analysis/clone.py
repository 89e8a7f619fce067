"""Makes a repository readable: a local one in place, another one as a bare clone. git connects only to checked IP addresses.

A remote clone contains only the history and the files at HEAD, if the server can send these alone.

The rules of `git fsck` are not enforced: many old but harmless histories violate them.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from ipaddress import IPv6Address
from pathlib import Path
from typing import IO

import psutil

from app.analysis import git, remote
from app.analysis.address import Address
from app.analysis.failures import AnalysisError
from app.analysis.history import find_head
from app.analysis.local import LocalRepository, too_large
from app.analysis.network import IP, Network
from app.analysis.rewind import rewind

POLL_SECONDS = 0.1
KILL_TIMEOUT_SECONDS = 5.0
MAX_STDERR_BYTES = 4000
MAX_MEMORY_BYTES = 1536 * 1024**2  # of git and its children, which hold the list of refs in memory
MAX_PINNED_ADDRESSES = 8

# The steps that git reports, and their range of the total progress in percent. Steps of the server get a small range, because a
# server can report any progress.
STEPS = {
    b"remote: Counting objects": (0, 3),
    b"remote: Compressing objects": (3, 5),
    b"Receiving objects": (5, 80),
    b"Resolving deltas": (80, 100),
}
_PROGRESS = re.compile(rb"(?:^|[\r\n])((?:remote: )?[A-Z][a-z]+ (?:objects|deltas)): +(\d{1,3})%")

NOT_FOUND = re.compile(
    r"not found|could not read Username|not appear to be a git repository|requested URL returned error: 4(?!08|29)\d\d"
)
TOO_SLOW = re.compile(r"Operation too slow|transfer closed|timed out")
REFUSED = re.compile(r"not our ref|unadvertised object|does not support")  # a request for a single commit
TOO_LARGE = re.compile(r"File too large|died of signal 25\b")  # SIGXFSZ: a file exceeded RLIMIT_FSIZE
OUT_OF_MEMORY = re.compile(r"[Oo]ut of memory|Cannot allocate memory")

SHORT_OF_RESOURCES = re.compile(r"No space left|Input/output error|[Cc]annot fork|temporarily unavailable|Too many open files")

OUT_OF_MEMORY_TEXT = "Fetching this repository exceeded the memory limit."

ReportProgress = Callable[[float, str], None]  # progress from 0 to 1, and the step


def fetch(
    address: Address,
    folder: Path,
    allowed: Sequence[Network],
    max_bytes: int,
    progress: ReportProgress,
    until: datetime | None = None,
) -> git.GitRepository:
    """Return a bare repository in the folder, with all branches and tags. Raises AnalysisError and GitError.

    It contains at least the files at HEAD. With `until`, HEAD and the tags are moved back to that time.
    """
    if address.repository:
        progress(0, "Opening")
        return _rewound(_open_local(address.repository, folder, max_bytes), until)
    progress(0, "Connecting")
    address, addresses = remote.resolve_redirects(address, allowed)
    try:
        repository = _fetch_remote(_Transfer(address, addresses, folder, max_bytes, progress), until)
    except git.GitError as error:
        raise _error(error.stderr) from None
    progress(1, "Fetched")
    return repository


def _fetch_remote(transfer: _Transfer, until: datetime | None) -> git.GitRepository:
    """Fetch the history without the contents of files, and then the files at HEAD.

    A server that has no filters sends everything at first. One that does not send a single commit is asked for everything.
    """
    repository = _rewound(transfer.clone("--filter=blob:none"), until)
    head = find_head(repository)
    if head is None or _has_files(repository, head):
        return repository
    try:
        transfer.fetch_files(repository, head)
    except git.GitError as error:
        if not REFUSED.search(error.stderr):
            raise
        return _rewound(transfer.clone(), until)
    return repository


def _rewound(repository: git.GitRepository, until: datetime | None) -> git.GitRepository:
    if until:
        rewind(repository, until)
    return repository


def _has_files(repository: git.GitRepository, head: str) -> bool:
    entries = repository.records("ls-tree", "-r", "--format=%(objecttype) %(objectname)", head, end=b"\n")
    names = (entry.removeprefix(b"blob ") + b"\n" for entry in entries if entry.startswith(b"blob "))
    with repository.stream("cat-file", "--batch-check=%(objectname)", input=names) as output:
        return not any(line.endswith(b" missing\n") for line in output)


def _open_local(repository: LocalRepository, folder: Path, max_bytes: int) -> git.GitRepository:
    """Make a local repository readable, in a second attempt if it was repacked during the first one."""
    try:
        try:
            return repository.make_readable(folder / "repository", max_bytes)
        except FileNotFoundError:
            shutil.rmtree(folder / "repository", ignore_errors=True)
            return repository.make_readable(folder / "repository", max_bytes)
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        raise AnalysisError("The repository changed while it was read.", permanent=False) from None
    except PermissionError as error:
        sys.stderr.write(f"{error}\n")
        raise AnalysisError(
            "This repository leads out of the allowed folders, or a file of it is not readable.", permanent=True
        ) from None
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise AnalysisError("This repository has too many packs. Run “git gc” in it.", permanent=True) from None
        raise
    except git.GitError as error:
        raise unreadable(error.stderr, folder) from None


def unreadable(stderr: str, folder: Path) -> AnalysisError:
    """Return an error with the reason of git, without the path of our own folder."""
    reason = git.reason(stderr.replace(f"{folder}{os.sep}", ""))
    return AnalysisError(f"git can't read this repository: {reason}", permanent=not SHORT_OF_RESOURCES.search(stderr))


def pin(address: Address, addresses: Sequence[IP]) -> dict[str, str]:
    """Return git options that make curl connect to these IP addresses, whatever the name resolves to by now."""
    if address.host in map(str, addresses):
        return {}
    targets = ",".join(f"[{ip}]" if isinstance(ip, IPv6Address) else str(ip) for ip in addresses[:MAX_PINNED_ADDRESSES])
    return {"http.curloptResolve": f"{address.host}:{address.port}:{targets}"}


_SETTINGS = """\
[core]
	hooksPath = /dev/null
	fsmonitor = false
	bigFileThreshold = 8m  # larger files are not held in memory
	packedGitWindowSize = 32m
	packedGitLimit = 256m
	deltaBaseCacheLimit = 64m
[pack]
	threads = 1
	windowMemory = 64m
	deltaCacheSize = 32m
[init]
	defaultBranch = reporadar/none  # HEAD if the server sends none; must not name an existing branch
[transfer]
	unpackLimit = 1  # write one pack instead of many files
[http]
	followRedirects = false  # neither HTTP redirects nor http-alternates
	lowSpeedLimit = 1000  # bytes per second, for lowSpeedTime
	lowSpeedTime = 30  # seconds
[credential]
	helper =
[gc]
	auto = 0
[maintenance]
	auto = false
[advice]
	detachedHead = false
"""


class _Transfer:
    """Runs git against one server, within limits of size and memory. Methods raise AnalysisError and GitError."""

    def __init__(self, address: Address, addresses: Sequence[IP], folder: Path, max_bytes: int, progress: ReportProgress) -> None:
        self.folder = folder
        self._url = address.url
        self._path = folder / "repository"
        self._max_bytes = max_bytes
        self._progress = progress
        self._pinned = [argument for name, value in pin(address, addresses).items() for argument in ("-c", f"{name}={value}")]
        (folder / "gitconfig").write_text(_SETTINGS)
        self._variables = git.environment() | {
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "GIT_ALLOW_PROTOCOL": "https",
        }
        if ca_file := remote.ca_file():
            self._variables["GIT_SSL_CAINFO"] = ca_file

    def clone(self, *options: str) -> git.GitRepository:
        """Clone the repository with all branches and tags, in place of a clone that is there."""
        shutil.rmtree(self._path, ignore_errors=True)
        self._run("clone", *options, "--bare", "--template=", "--progress", "--", self._url, str(self._path), begin=0, end=0.8)
        repository = git.GitRepository(self._path)
        # Without a remote, git has nothing to fetch missing objects from: it would not connect to the checked IP address.
        repository.output("config", "--remove-section", "remote.origin")
        return repository

    def fetch_files(self, repository: git.GitRepository, commit: str) -> None:
        """Fetch the files of a commit: as a clone of this single commit, whose packs become packs of the repository.

        That is one request. To ask for each file by its ID would take git very long if there are many.
        """
        single = self.folder / "single"
        object_format = repository.output("rev-parse", "--show-object-format").decode().strip()
        git.run("init", "--quiet", "--bare", "--template=", f"--object-format={object_format}", str(single))
        options = ("--depth=1", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--progress")
        try:
            self._run(f"--git-dir={single}", "fetch", *options, "--", self._url, commit, begin=0.8, end=1)
            for pack in (single / "objects" / "pack").iterdir():
                pack.rename(repository.path / "objects" / "pack" / pack.name)
        finally:
            shutil.rmtree(single)

    def _run(self, *arguments: str, begin: float, end: float) -> None:
        """Run git. It makes the progress from `begin` to `end`."""
        with git.popen(["git", *self._pinned, *arguments], self._variables) as process:
            assert process.stderr is not None
            reader = _StderrReader(process.stderr, lambda done, step: self._progress(begin + (end - begin) * done, step))
            try:
                while process.poll() is None:
                    self._refuse_too_large()
                    if memory_bytes(process.pid) > MAX_MEMORY_BYTES:
                        raise AnalysisError(OUT_OF_MEMORY_TEXT, permanent=True)
                    time.sleep(POLL_SECONDS)
            finally:
                if process.poll() is None:
                    _kill(process)
                reader.join(KILL_TIMEOUT_SECONDS)
        if process.returncode != 0:
            stderr = git.printable(reader.stderr.replace(b"\r", b"\n"))
            sys.stderr.write(f"git: {stderr}\n")
            if TOO_LARGE.search(stderr):
                raise too_large(self._max_bytes)
            if OUT_OF_MEMORY.search(stderr):
                raise AnalysisError(OUT_OF_MEMORY_TEXT, permanent=True)
            raise git.GitError(stderr)
        self._refuse_too_large()

    def _refuse_too_large(self) -> None:
        if disk_usage_bytes(self.folder) > self._max_bytes:
            raise too_large(self._max_bytes)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children, which would continue to write otherwise, and wait until they have ended."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
        while not all(map(_has_ended, children)) and time.monotonic() < deadline:
            time.sleep(0.01)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # its parent has to reap it, which may take a while
    except psutil.NoSuchProcess:
        return True


class _StderrReader(threading.Thread):
    """Reports progress from the error output of git, and keeps the end of it in `stderr`."""

    def __init__(self, output: IO[bytes], progress: ReportProgress) -> None:
        super().__init__(daemon=True)
        self.stderr = b""
        self._output = output
        self._progress = progress
        self._last = 0.0
        self.start()

    def run(self) -> None:
        descriptor = self._output.fileno()
        with suppress(OSError, ValueError):
            while chunk := os.read(descriptor, 4096):
                self.stderr = (self.stderr + chunk)[-MAX_STDERR_BYTES:]
                for found in _PROGRESS.finditer(chunk):
                    self._report(found[1], int(found[2]))

    def _report(self, step: bytes, percent: int) -> None:
        if step in STEPS:
            begin, end = STEPS[step]
            self._last = max(self._last, (begin + (end - begin) * min(percent, 100) / 100) / 100)
            self._progress(self._last, step.decode().removeprefix("remote: "))


def _error(stderr: str) -> AnalysisError:
    """Return an error with our own text: messages of git contain local paths and text from the server."""
    own_lines = "\n".join(line for line in stderr.splitlines() if not line.startswith("remote:"))
    if NOT_FOUND.search(own_lines):
        return AnalysisError("There is no public repository at this address.", permanent=True)
    if TOO_SLOW.search(own_lines):
        return AnalysisError("The server is too slow or closed the connection too early.", permanent=False)
    return AnalysisError("The repository could not be fetched: git failed.", permanent=False)


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
    return total


def disk_usage_bytes(path: Path) -> int:
    """Return the disk usage of a folder. Files may disappear during the call."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 - faster, and called often
    return total
