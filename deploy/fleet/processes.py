"""Programs that run: each in a session of its own, its output shown line by line, its end noticed."""

from __future__ import annotations

import os
import pwd
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from deploy.fleet.terminal import Terminal

GUARD = Path(__file__).with_name("guard.py")
CHUNK_BYTES = 65_536


@dataclass(frozen=True)
class Program:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    account: pwd.struct_passwd | None = None
    stop_signal: signal.Signals = signal.SIGTERM


class Run:
    """One run of a program, until it ends."""

    def __init__(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        self.program = program
        self.process = process
        self.pid = process.pid
        self.started = time.monotonic()
        self.rest = b""  # of its output: a line that has not ended

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def how_it_ended(self) -> str:
        status = self.process.returncode
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def stop(self) -> None:
        self.process.send_signal(self.program.stop_signal)

    def kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Processes:
    """All in one thread: what is to be done happens in `turn`, so that nothing needs a lock, and forks are safe."""

    def __init__(self, terminal: Terminal, held_until_all_are_gone: int) -> None:
        """The file descriptor stays open until a killed fleet is gone: a lock on it lasts as long."""
        self.stop_wished = False
        self._terminal = terminal
        self._runs: list[Run] = []
        self._selector = selectors.DefaultSelector()
        self._wake_on_signals()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", str(GUARD)], stdin=subprocess.PIPE, start_new_session=True, pass_fds=[held_until_all_are_gone]
        )

    def start(self, program: Program) -> Run:
        account = program.account
        process = subprocess.Popen(
            program.command,
            env=program.environment,
            cwd=program.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            # Before it is the program: there is no moment in which it lives and the guard does not know it.
            preexec_fn=lambda: self._tell_guard("+", os.getpid()),
        )
        run = Run(program, process)
        output = self._output(run)
        os.set_blocking(output, False)
        self._selector.register(output, selectors.EVENT_READ, run)
        self._runs.append(run)
        return run

    def turn(self, seconds: float) -> list[Run]:
        """Waits until something happens, so long at most; shows what was written, and returns what has ended."""
        for key, _ in self._selector.select(max(0, seconds)):
            if key.data is None:
                os.read(key.fd, CHUNK_BYTES)
            else:
                self._show_output(key.data)
        ended = [run for run in self._runs if run.process.poll() is not None]
        for run in ended:
            self._clear_away(run)
        return ended

    def close(self) -> None:
        """When nothing runs any more."""
        if self._guard.stdin:
            self._guard.stdin.close()
        self._guard.wait()

    def _wake_on_signals(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._selector.register(reading, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for wish in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(wish, self._wish_to_stop)

    def _wish_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_wished = True

    def _tell_guard(self, sign: str, pid: int) -> None:
        if self._guard.stdin:
            with suppress(OSError):
                os.write(self._guard.stdin.fileno(), f"{sign}{pid}\n".encode())

    def _clear_away(self, run: Run) -> None:
        """What it has left behind would be in the way of its successor, on its port."""
        run.kill_group()
        self._tell_guard("-", run.pid)
        self._runs.remove(run)
        output = self._output(run)
        while output in self._selector.get_map() and self._show_output(run):
            pass
        if output in self._selector.get_map():
            self._selector.unregister(output)
        if run.process.stdout:
            run.process.stdout.close()

    def _show_output(self, run: Run) -> bool:
        """Whether there was any."""
        try:
            data = os.read(self._output(run), CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(self._output(run))
        *lines, run.rest = (run.rest + data).split(b"\n")
        if run.rest and (not data or len(run.rest) > CHUNK_BYTES):
            lines, run.rest = [*lines, run.rest], b""
        for line in lines:
            self._terminal.show(run.program.name, line.decode(errors="replace").rstrip())
        return bool(data)

    @staticmethod
    def _output(run: Run) -> int:
        assert run.process.stdout
        return run.process.stdout.fileno()
