"""Processes that tests start: each is signalled together with its descendants, and none outlives the test run."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import psutil

T = TypeVar("T")

POLL_SECONDS = 0.02
STANDING_STILL = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}

# Below the range from which the kernel takes the ports of outgoing connections. A client that keeps calling a server
# which is down could otherwise be given that very port, and then occupy it or even talk to itself.
FIRST_PORT, LAST_PORT = 20_000, 32_000
_handed_out: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on; never the same one twice."""
    while True:
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            return port


def free_ports(count: int) -> list[int]:
    """So many, one after the other."""
    while True:
        first = free_port()
        others = range(first + 1, first + count)
        if not _handed_out.intersection(others) and all(map(_is_free, others)):
            _handed_out.update(others)
            return [first, *others]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_until(condition: Callable[[], T | None], timeout: float = 10, what: str = "a condition") -> T:
    """The first truthy result of the condition; an AssertionError when there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(POLL_SECONDS)


class Process:
    """One running program, in a process group of its own, that writes its output to a file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        folder: Path,
        user: str | None = None,
    ) -> None:
        """Runs in `directory` and writes to `folder`/log; the folder is removed if the test run gets killed."""
        account = pwd.getpwnam(user) if user else None
        with (folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                command,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        self.pid = self._popen.pid
        self._root = psutil.Process(self.pid)
        self._guard = _start_guard(self.pid, folder)
        self._frozen: list[psutil.Process] = []

    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def children(self) -> list[int]:
        return [child.pid for child in self._root.children()]

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """As the terminal does on Ctrl-C."""
        os.killpg(self.pid, number)

    def wait(self, timeout: float) -> int:
        """The exit status, once there is one."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(str(error)) from None
        if self._guard.returncode is None:
            self._clear_away()
        return status

    def freeze(self) -> None:
        """It and its descendants get no more processor time; their connections stay open."""
        self._frozen = _freeze_tree(self._root)

    def resume(self) -> None:
        for process in reversed(self._frozen):
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._frozen = []

    def kill(self) -> int:
        """SIGKILL to it and to its descendants."""
        _kill_tree(self._root)
        return self.wait(timeout=10)

    def _clear_away(self) -> None:
        _kill_group(self.pid)
        with self._guard:
            self._guard.kill()


def run(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path, user: str | None = None, timeout: float = 60
) -> str:
    """Runs a program to its end; returns its output."""
    with TemporaryDirectory(prefix="reporadar-") as name:
        folder = Path(name)
        process = Process(command, environment=environment, directory=directory, folder=folder, user=user)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        output = (folder / "log").read_text(errors="replace")
    if status != 0:
        raise AssertionError(f"{' '.join(command)} ended with status {status}\n{output}")
    return output


def _freeze_tree(root: psutil.Process) -> list[psutil.Process]:
    """Parents first, each until it really stands still: then it starts no children that would be overlooked."""
    frozen = []
    waiting = [root]
    while waiting:
        process = waiting.pop()
        with suppress(psutil.NoSuchProcess):
            _freeze(process)
            frozen.append(process)
            waiting.extend(process.children())
    return frozen


def _freeze(process: psutil.Process) -> None:
    process.suspend()
    wait_until(lambda: process.status() in STANDING_STILL, what=f"process {process.pid} to stand still")


def _kill_tree(root: psutil.Process) -> None:
    tree = _freeze_tree(root)
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: all(map(_is_gone, tree)), what=f"process {root.pid} and its descendants to be gone")


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _start_guard(pid: int, folder: Path) -> "subprocess.Popen[bytes]":
    """A process that takes along what a killed test run would leave behind.

    Linux' own tie to the parent (PR_SET_PDEATHSIG) is one to the thread that started the child, and leaves out grandchildren.
    """
    return subprocess.Popen(
        [sys.executable, "-I", __file__, str(pid), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _guard(pid: int, folder: str) -> None:
    """The test run holds the other end of standard input, which therefore ends when the test run does, however it does."""
    root = psutil.Process(pid)
    sys.stdin.read()
    _kill_tree(root)
    _kill_group(pid)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2])
