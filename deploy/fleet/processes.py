"""Child processes: each runs in its own session, its output is shown line by line, and its exit is noticed."""

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


class RunningProgram:
    def __init__(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        self.program = program
        self.process = process
        self.pid = process.pid
        self.started = time.monotonic()
        self.stdout = process.stdout
        self.partial_line = b""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def describe_exit(self) -> str:
        status = self.process.returncode
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"

    def stop(self) -> None:
        self.process.send_signal(self.program.stop_signal)

    def kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class ProcessManager:
    """Everything happens in one thread, in `poll`: no locks are needed and fork is safe."""

    def __init__(self, terminal: Terminal, lock_descriptor: int) -> None:
        """The guard inherits the lock, so it is held until the guard has killed the rest of a dead fleet."""
        self.stop_requested = False
        self._terminal = terminal
        self._running: list[RunningProgram] = []
        self._selector = selectors.DefaultSelector()
        self._wake_on_signals()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", str(GUARD)], stdin=subprocess.PIPE, start_new_session=True, pass_fds=[lock_descriptor]
        )

    def start(self, program: Program) -> RunningProgram:
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
            # Before exec, so that the guard knows the process before the program runs.
            preexec_fn=lambda: self._notify_guard("+", os.getpid()),
        )
        running = RunningProgram(program, process)
        os.set_blocking(running.stdout.fileno(), False)
        self._selector.register(running.stdout, selectors.EVENT_READ, running)
        self._running.append(running)
        return running

    def poll(self, timeout: float) -> list[RunningProgram]:
        """Wait for an event, show new output and return the programs that have exited."""
        for key, _ in self._selector.select(max(0, timeout)):
            if key.data is None:
                os.read(key.fd, CHUNK_BYTES)
            else:
                self._show_output(key.data)
        exited = [running for running in self._running if running.process.poll() is not None]
        for running in exited:
            self._clean_up(running)
        return exited

    def close(self) -> None:
        """Stop the guard. No program may be running any more."""
        if self._guard.stdin:
            self._guard.stdin.close()
        self._guard.wait()

    def _wake_on_signals(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._selector.register(reading, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._request_stop)

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def _notify_guard(self, sign: str, pid: int) -> None:
        if self._guard.stdin:
            with suppress(OSError):
                os.write(self._guard.stdin.fileno(), f"{sign}{pid}\n".encode())

    def _clean_up(self, running: RunningProgram) -> None:
        running.kill_group()  # its remaining children would keep the port
        self._notify_guard("-", running.pid)
        self._running.remove(running)
        output = running.stdout
        while output in self._selector.get_map() and self._show_output(running):
            pass
        if output in self._selector.get_map():
            self._selector.unregister(output)
        output.close()

    def _show_output(self, running: RunningProgram) -> bool:
        """Show what can be read without blocking. Return whether there was anything."""
        try:
            data = os.read(running.stdout.fileno(), CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(running.stdout)
        *lines, running.partial_line = (running.partial_line + data).split(b"\n")
        if running.partial_line and (not data or len(running.partial_line) > CHUNK_BYTES):
            lines, running.partial_line = [*lines, running.partial_line], b""
        for line in lines:
            self._terminal.show(running.program.name, line.decode(errors="replace").rstrip())
        return bool(data)
