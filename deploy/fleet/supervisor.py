"""Starts the fleet's programs in order, restarts those that exit, and stops all of them in order."""

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import redis

from deploy.fleet.executables import FleetError
from deploy.fleet.processes import ProcessManager, Program, RunningProgram
from deploy.fleet.terminal import Terminal

STABLE_SECONDS = 5.0  # a program that ran this long is restarted at once
RESTART_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 30.0
START_TIMEOUT_SECONDS = 60.0
STORES_STOP_SECONDS = 30.0


class StopRequested(Exception):
    """A signal asked for the stop during a wait."""


class Supervisor:
    def __init__(self, processes: ProcessManager, terminal: Terminal, pid_folder: Path) -> None:
        self._processes = processes
        self._terminal = terminal
        self._pid_folder = pid_folder
        self._running: dict[str, RunningProgram] = {}
        self._scheduled: dict[str, tuple[float, Program]] = {}  # restarts by name, with their time
        self._backoff: dict[str, float] = {}
        self._is_stopping = False

    def pid(self, name: str) -> str:
        return str(self._running[name].pid) if name in self._running else "-"

    def start(self, program: Program) -> RunningProgram:
        running = self._processes.start(program)
        self._running[program.name] = running
        self._pid_file(program.name).write_text(f"{running.pid}\n")
        return running

    def run_once(self, program: Program) -> None:
        """Run a program that is not restarted. Raise FleetError if it fails."""
        running = self._processes.start(program)
        self._running[program.name] = running
        self._wait_until(lambda: running.process.returncode is not None, f"{program.name} did not finish")
        if running.process.returncode != 0:
            raise FleetError(
                f"{program.name} {running.describe_exit()}; see its output above.", max(1, running.process.returncode)
            )

    def wait_for(self, name: str, is_available: Callable[[], bool]) -> None:
        self._wait_until(is_available, f"{name} did not answer")

    def watch(self) -> None:
        """Restart programs that exit, until a stop is requested."""
        with suppress(StopRequested):
            while True:
                self._poll(1.0)

    def stop(self, stages: Sequence[tuple[Sequence[str], float]]) -> None:
        """Stop the stages one after the other. Each is a list of names and a timeout in seconds, after which they are killed."""
        self._is_stopping = True
        self._scheduled.clear()
        for names, timeout in stages:
            running = [self._running[name] for name in names if name in self._running]
            if running:
                self._terminal.say(f"stopping {', '.join(one.program.name for one in running)}")
                self._stop_all(running, timeout)

    def _stop_all(self, programs: list[RunningProgram], timeout: float) -> None:
        for running in programs:
            running.stop()
        deadline = time.monotonic() + timeout
        while any(running.process.returncode is None for running in programs):
            self._poll(deadline - time.monotonic())
            if time.monotonic() > deadline:
                for running in programs:
                    if running.process.returncode is None:
                        self._terminal.say(f"{running.program.name} did not stop within {timeout:.0f} s: killing it")
                        running.kill_group()
                deadline = time.monotonic() + timeout

    def _wait_until(self, condition: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise FleetError(f"{failure} within {START_TIMEOUT_SECONDS:.0f} s; see its output above.")
            self._poll(0.1)

    def _poll(self, timeout: float) -> None:
        if self._processes.stop_requested and not self._is_stopping:
            raise StopRequested
        now = time.monotonic()
        wake_at = min([now + timeout, *(restart_at for restart_at, _ in self._scheduled.values())])
        for running in self._processes.poll(wake_at - now):
            self._on_exit(running)
        for name, (restart_at, program) in list(self._scheduled.items()):
            if time.monotonic() >= restart_at:
                del self._scheduled[name]
                self._terminal.say(f"{name} restarted, pid {self.start(program).pid}")

    def _on_exit(self, running: RunningProgram) -> None:
        name = running.program.name
        del self._running[name]
        if not self._pid_file(name).exists():  # started by run_once
            return
        self._pid_file(name).unlink()
        if self._is_stopping:
            self._terminal.say(f"{name} {running.describe_exit()}")
            return
        delay = self._restart_delay(running)
        exited = f"{name} (pid {running.pid}) {running.describe_exit()} after {running.seconds:.0f} s"
        self._terminal.say(f"{exited}; restarting it in {delay:g} s")
        self._scheduled[name] = (time.monotonic() + delay, running.program)

    def _restart_delay(self, running: RunningProgram) -> float:
        """Return the seconds to wait: exponential backoff for a program that exits soon after its start."""
        name = running.program.name
        if running.seconds >= STABLE_SECONDS:
            self._backoff.pop(name, None)
            return RESTART_SECONDS
        self._backoff[name] = min(MAX_BACKOFF_SECONDS, 2 * self._backoff.get(name, 0.5))
        return self._backoff[name]

    def _pid_file(self, name: str) -> Path:
        return self._pid_folder / f"{name}.pid"


def is_redis_available(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def is_postgres_available(url: str, data_folder: Path) -> bool:
    """Also create the database if it is missing. The pid file is checked first: an early connection logs a FATAL error."""
    try:
        if (data_folder / "postmaster.pid").read_text().splitlines()[7].strip() != "ready":
            return False
    except (FileNotFoundError, IndexError):
        return False
    server, _, database = url.rpartition("/")
    try:
        with closing(psycopg2.connect(f"{server}/postgres", connect_timeout=2)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{database}"')
        return True
    except psycopg2.OperationalError:
        return False


def is_ready(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
