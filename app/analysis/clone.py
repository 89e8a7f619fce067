"""Fetching a repository: a full bare clone, by a git that talks to nobody but the machines that were checked.

Objects are not held against the rules of `git fsck`: many an old and honest history breaks them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import IO

import psutil

from app.analysis import git, remote
from app.analysis.address import Address
from app.analysis.failures import Failure
from app.analysis.network import IP, Network

POLL_SECONDS = 0.1
END_SECONDS = 5.0  # for what was killed to be gone
MAX_COMPLAINT_BYTES = 4000
MAX_MEMORY_BYTES = 1536 * 1024**2  # of git with all that it starts; an answer without an end is held in memory
MAX_MACHINES = 8  # of one name, that git is told

# git's own words on what it is doing, and the part of the fetch that this is, in percent.
# The other side only counts: what else it says about its progress it could invent.
STEPS = {
    b"remote: Counting objects": (0, 3),
    b"remote: Compressing objects": (3, 5),
    b"Receiving objects": (5, 80),
    b"Resolving deltas": (80, 100),
}
_PROGRESS = re.compile(rb"(?:^|[\r\n])((?:remote: )?[A-Z][a-z]+ (?:objects|deltas)): +(\d{1,3})%")

GONE = re.compile(
    r"not found|could not read Username|not appear to be a git repository|requested URL returned error: 4(?!08|29)\d\d"
)
TOO_SLOW = re.compile(r"Operation too slow|transfer closed|timed out")
TOO_LARGE = re.compile(r"File too large|died of signal 25\b")  # SIGXFSZ: a file has grown to the limit of the process
OUT_OF_MEMORY = re.compile(r"[Oo]ut of memory|Cannot allocate memory")

OUT_OF_MEMORY_TEXT = "Fetching this repository takes more memory than it may."

Progress = Callable[[float, str], None]  # from 0 to 1, and what is done


def fetch(address: Address, folder: Path, allowed: Sequence[Network], max_bytes: int, progress: Progress) -> git.Repository:
    """A bare clone of it in that folder, with all branches and tags. Raises Failure."""
    progress(0, "Connecting")
    if address.is_local:
        return _clone(address.url, folder, ["file"], {}, max_bytes, progress)
    address, addresses = remote.find(address, allowed)
    return _clone(address.url, folder, ["https"], pinned(address, addresses), max_bytes, progress)


def pinned(address: Address, addresses: Sequence[IP]) -> dict[str, str]:
    """For curl: this host name, at this port, is at these machines, whatever its name server says by now."""
    if address.host in map(str, addresses):
        return {}
    machines = ",".join(f"[{ip}]" if isinstance(ip, IPv6Address) else str(ip) for ip in addresses[:MAX_MACHINES])
    return {"http.curloptResolve": f"{address.host}:{address.port}:{machines}"}


# For git and for all that it starts: the reading side of a local clone takes nothing from the command line of the other.
_SETTINGS = """\
[safe]
	directory = *  # whose a folder below REPOSITORY_ROOTS is does not matter
[core]
	hooksPath = /dev/null
	fsmonitor = false
	bigFileThreshold = 8m  # larger ones are not held in memory
	packedGitWindowSize = 32m
	packedGitLimit = 256m
	deltaBaseCacheLimit = 64m
[pack]
	threads = 1
	windowMemory = 64m
	deltaCacheSize = 32m
[init]
	defaultBranch = reporadar/none  # where HEAD leads to if the other side has none, not to a branch that happens to be there
[transfer]
	unpackLimit = 1  # one file instead of many
[http]
	followRedirects = false  # neither those of HTTP nor http-alternates
	lowSpeedLimit = 1000  # bytes a second, for
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


def _clone(
    url: str, folder: Path, protocols: Sequence[str], options: dict[str, str], max_bytes: int, progress: Progress
) -> git.Repository:
    path = folder / "repository"
    settings = folder / "gitconfig"
    settings.write_text(_SETTINGS)
    arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
    command = ["git", *arguments, "clone", "--bare", "--no-local", "--template=", "--progress", "--", url, str(path)]
    variables = git.environment() | {
        "GIT_CONFIG_GLOBAL": str(settings),
        "GIT_ALLOW_PROTOCOL": ":".join(protocols),
        "GIT_NO_LAZY_FETCH": "1",
    }
    if certificates := remote.certificates():
        variables["GIT_SSL_CAINFO"] = certificates
    too_large = Failure(f"The repository is larger than {max_bytes / 1024**2:g} MB.", permanent=True)
    with git.popen(command, variables) as process:
        assert process.stderr is not None
        reader = _Reader(process.stderr, progress)
        try:
            while process.poll() is None:
                if size_of(path) > max_bytes:
                    raise too_large
                if memory_of(process.pid) > MAX_MEMORY_BYTES:
                    raise Failure(OUT_OF_MEMORY_TEXT, permanent=True)
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                _end(process)
            reader.join(END_SECONDS)
    if process.returncode != 0:
        sys.stderr.write(f"git: {git.printable(reader.complaint)}\n")
        raise too_large if TOO_LARGE.search(reader.complaint.decode(errors="replace")) else _failure(reader.complaint)
    if size_of(path) > max_bytes:
        raise too_large
    progress(1, "Fetched")
    return git.Repository(path)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With what it has started, all of which would otherwise go on writing for a while."""
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for other in started:
            with suppress(psutil.NoSuchProcess):
                other.kill()
        deadline = time.monotonic() + END_SECONDS
        while not all(map(_is_over, started)) and time.monotonic() < deadline:
            time.sleep(0.01)


def _is_over(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # somebody else has to take notice of its end, and may be slow
    except psutil.NoSuchProcess:
        return True


class _Reader(threading.Thread):
    """Of what git says meanwhile."""

    def __init__(self, output: IO[bytes], progress: Progress) -> None:
        super().__init__(daemon=True)
        self.complaint = b""
        self._output = output
        self._progress = progress
        self._last = 0.0
        self.start()

    def run(self) -> None:
        descriptor = self._output.fileno()
        with suppress(OSError, ValueError):
            while chunk := os.read(descriptor, 4096):
                self.complaint = (self.complaint + chunk)[-MAX_COMPLAINT_BYTES:]
                for found in _PROGRESS.finditer(chunk):
                    self._report(found[1], int(found[2]))

    def _report(self, step: bytes, percent: int) -> None:
        if step in STEPS:
            begin, end = STEPS[step]
            self._last = max(self._last, (begin + (end - begin) * min(percent, 100) / 100) / 100)
            self._progress(self._last, step.decode().removeprefix("remote: "))


def _failure(complaint: bytes) -> Failure:
    """In our words: git's own name folders of this machine, and can be the other side's."""
    text = complaint.decode(errors="replace")
    if OUT_OF_MEMORY.search(text):  # the other side of a local clone is ours as well
        return Failure(OUT_OF_MEMORY_TEXT, permanent=True)
    said = "\n".join(line for line in re.split(r"[\r\n]+", text) if not line.startswith("remote:"))
    if GONE.search(said):
        return Failure("There is no public repository at this address.", permanent=True)
    if TOO_SLOW.search(said):
        return Failure("The server is too slow, or ends the connection too early.", permanent=False)
    return Failure("The repository could not be fetched: git ended with an error.", permanent=False)


def memory_of(pid: int) -> int:
    """Bytes in memory, of a process and all that it has started."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def size_of(path: Path) -> int:
    """In bytes on disk; files may vanish meanwhile."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 - quick, and often
    return total
