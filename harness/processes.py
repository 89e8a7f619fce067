"""Processes that tests start. Signals can reach all descendants, and no process outlives the test run."""

import atexit
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TypeVar

import psutil

T = TypeVar("T")

# The limit on waiting for something that an idle machine does at once. The wait ends when it is done, so the limit costs time
# only in a test that fails. A machine that is busy with other tests may need nearly as long.
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.02
MAX_POLL_SECONDS = 0.1  # of a condition that takes long: polling takes processor time from what it waits for
STANDING_STILL = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}

# Below the range from which the kernel takes the ports of outgoing connections. A client that keeps calling a server
# which is down could otherwise be given that very port, and then occupy it or even talk to itself.
FIRST_PORT, LAST_PORT = 20_000, 32_000


class _PortLocks:
    """Locks on ports, held until exit, so that test runs side by side never use the same one: bytes of one shared file."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._taken: set[int] = set()
        self._thread_lock = threading.Lock()

    def take(self, ports: Sequence[int]) -> bool:
        """Lock all of these ports for this process until it ends. Return whether nobody else holds one of them."""
        with self._thread_lock:
            if self._taken.intersection(ports) or not all(map(self._lock, ports)):
                return False
            self._taken.update(ports)
            return True

    def _lock(self, port: int) -> bool:
        if self._file is None:
            # Never closed: that would give up all locks of the process.
            self._file = os.open(Path(gettempdir(), f"reporadar-ports-{os.getuid()}"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        return True


_port_locks = _PortLocks()


def free_port() -> int:
    """Return a loopback port that nobody listens on, and that no other test run gets while this process lives."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return consecutive free ports."""
    while True:
        first = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT - count)
        ports = list(range(first, first + count))
        if _port_locks.take(ports) and all(map(_is_free, ports)):
            return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_until(condition: Callable[[], T | None], timeout: float = PATIENCE_SECONDS, what: str = "a condition") -> T:
    """Return the first true result of the condition. Raise AssertionError if there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = POLL_SECONDS
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(pause)
        pause = min(pause * 1.2, MAX_POLL_SECONDS)


class Process:
    """A running program in its own process group, which writes its output to a file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        folder: Path,
        user: str | None = None,
    ) -> None:
        """Start in `directory` and write to `folder`/log. The folder is removed if the test run is killed."""
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
        self._roots = _running(self.pid)
        self._is_guarded = True
        _guard.watch(self.pid, folder)
        self._frozen: list[psutil.Process] = []

    def status(self) -> int | None:
        """Return the exit status, negative for a signal, or None while the process runs."""
        return self._popen.poll()

    def children(self) -> list[int]:
        return [child.pid for root in self._roots for child in root.children()]

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Signal the whole process group, as the terminal does on Ctrl-C."""
        os.killpg(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit status. Raise AssertionError after `timeout` seconds."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(str(error)) from None
        if self._is_guarded:
            self._is_guarded = False
            _kill_group(self.pid)
            _guard.forget(self.pid)
        return status

    def freeze(self) -> None:
        """Stop the process and its descendants with SIGSTOP. Their connections stay open."""
        self._frozen = _freeze_tree(self._roots)

    def resume(self) -> None:
        for process in reversed(self._frozen):
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._frozen = []

    def kill(self) -> int:
        """Send SIGKILL to the process and its descendants; return the exit status."""
        _kill_tree(self._roots)
        return self.wait(PATIENCE_SECONDS)


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    user: str | None = None,
    timeout: float = PATIENCE_SECONDS,
) -> str:
    """Run a program to its end and return its output. Raise AssertionError if it fails."""
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


def _running(pid: int) -> list[psutil.Process]:
    """Return the process, or nothing: where gevent is patched in, it is gone as soon as it has ended."""
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _freeze_tree(roots: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Stop parents before children, each until it has really stopped, so that no new child is overlooked."""
    frozen = []
    waiting = [*roots]
    while waiting:
        process = waiting.pop()
        with suppress(psutil.NoSuchProcess):
            _freeze(process)
            frozen.append(process)
            waiting.extend(process.children())
    return frozen


def _freeze(process: psutil.Process) -> None:
    process.suspend()
    wait_until(lambda: process.status() in STANDING_STILL, what=f"process {process.pid} to be stopped")


def _kill_tree(roots: Sequence[psutil.Process]) -> None:
    tree = _freeze_tree(roots)
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: all(map(_is_gone, tree)), what="killed processes to end")


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class _Guard:
    """A process that kills the processes and removes the folders that a killed test run would leave behind.

    Linux' PR_SET_PDEATHSIG depends on the thread that started the child, and does not reach grandchildren.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int, folder: Path) -> None:
        self._write(f"+ {pid} {folder}\n")

    def forget(self, pid: int) -> None:
        self._write(f"- {pid}\n")

    def _write(self, line: str) -> None:
        with self._lock:
            self._popen = self._popen or self._start()
            if self._popen.stdin is None:
                raise AssertionError("the guard has no standard input")
            os.write(self._popen.stdin.fileno(), line.encode())

    def _start(self) -> "subprocess.Popen[bytes]":
        guard = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(_close_guard, guard)
        return guard


def _close_guard(guard: "subprocess.Popen[bytes]") -> None:
    """End the guard, or Python would warn at its own end that a process is still running."""
    with suppress(subprocess.TimeoutExpired):
        guard.communicate(timeout=PATIENCE_SECONDS)


_guard = _Guard()


def _run_guard() -> None:
    """Follow the lines of `_Guard`. The test run holds the other end of standard input, which therefore ends with it."""
    watched: dict[int, tuple[psutil.Process, str]] = {}
    for line in sys.stdin:
        sign, pid, *folder = line.rstrip("\n").split(" ", 2)
        if sign == "-":
            watched.pop(int(pid), None)
            continue
        with suppress(psutil.NoSuchProcess):
            watched[int(pid)] = psutil.Process(int(pid)), folder[0]
    for pid, (root, directory) in watched.items():
        with suppress(psutil.NoSuchProcess, AssertionError):
            _kill_tree([root])
        _kill_group(pid)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _run_guard()
