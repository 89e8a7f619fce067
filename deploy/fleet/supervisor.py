"""Starts the fleet in order, starts again what ends, and stops it in order."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import redis

from deploy.fleet.processes import Processes, Program, Run
from deploy.fleet.programs import Refused
from deploy.fleet.terminal import Terminal

STEADY_SECONDS = 5.0  # who lived as long did not fail at its start
SOON_SECONDS = 0.2  # for what was left behind to be gone
LONGEST_PAUSE_SECONDS = 30.0
START_SECONDS = 60.0
STORES_STOP_SECONDS = 30.0


class StopWished(Exception):
    """By a signal, while something was waited for."""


class Supervisor:
    def __init__(self, processes: Processes, terminal: Terminal, pid_folder: Path) -> None:
        self._processes = processes
        self._terminal = terminal
        self._pid_folder = pid_folder
        self._running: dict[str, Run] = {}
        self._due: dict[str, tuple[float, Program]] = {}  # what will be started again, and when
        self._pauses: dict[str, float] = {}
        self._stopping = False

    def pid(self, name: str) -> str:
        return str(self._running[name].pid) if name in self._running else "-"

    def start(self, program: Program) -> Run:
        run = self._processes.start(program)
        self._running[program.name] = run
        self._pid_file(program.name).write_text(f"{run.pid}\n")
        return run

    def run_to_its_end(self, program: Program) -> None:
        """For what is done once; Refused if it fails."""
        run = self._processes.start(program)
        self._running[program.name] = run
        self._until(lambda: run.process.returncode is not None, f"{program.name} to end")
        if run.process.returncode != 0:
            raise Refused(f"{program.name} {run.how_it_ended()}; it says why above.", max(1, run.process.returncode))

    def wait_for(self, name: str, answers: Callable[[], bool]) -> None:
        self._until(answers, f"{name} to answer")

    def watch(self) -> None:
        """Until a stop is wished."""
        with suppress(StopWished):
            while True:
                self._turn(1.0)

    def stop(self, stages: Sequence[tuple[Sequence[str], float]]) -> None:
        """Names and seconds: all of a stage at once, and a stage only when nothing is left of the one before."""
        self._stopping = True
        self._due.clear()
        for names, seconds in stages:
            runs = [self._running[name] for name in names if name in self._running]
            if runs:
                self._terminal.say(f"stopping {', '.join(run.program.name for run in runs)}")
                self._stop_all(runs, seconds)

    def _stop_all(self, runs: list[Run], seconds: float) -> None:
        for run in runs:
            run.stop()
        deadline = time.monotonic() + seconds
        while any(run.process.returncode is None for run in runs):
            self._turn(deadline - time.monotonic())
            if time.monotonic() > deadline:
                for run in runs:
                    if run.process.returncode is None:
                        self._terminal.say(f"{run.program.name} has not stopped within {seconds:.0f} s: killing it")
                        run.kill_group()
                deadline = time.monotonic() + seconds

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise Refused(f"Waited {START_SECONDS:.0f} s in vain for {what}.")
            self._turn(0.1)

    def _turn(self, seconds: float) -> None:
        if self._processes.stop_wished and not self._stopping:
            raise StopWished
        now = time.monotonic()
        soonest = min([now + seconds, *(moment for moment, _ in self._due.values())])
        for run in self._processes.turn(soonest - now):
            self._ended(run)
        for name, (moment, program) in list(self._due.items()):
            if time.monotonic() >= moment:
                del self._due[name]
                run = self.start(program)
                self._terminal.say(f"{name} is started again, pid {run.pid}")

    def _ended(self, run: Run) -> None:
        name = run.program.name
        del self._running[name]
        if not self._pid_file(name).exists():  # it was to be done once
            return
        self._pid_file(name).unlink()
        if self._stopping:
            self._terminal.say(f"{name} {run.how_it_ended()}")
            return
        pause = self._pause(run)
        self._terminal.say(
            f"{name} (pid {run.pid}) {run.how_it_ended()} after {run.seconds:.0f} s; starting it again in {pause:g} s"
        )
        self._due[name] = (time.monotonic() + pause, run.program)

    def _pause(self, run: Run) -> float:
        """Longer each time for what ends at once."""
        name = run.program.name
        if run.seconds >= STEADY_SECONDS:
            self._pauses.pop(name, None)
            return SOON_SECONDS
        self._pauses[name] = min(LONGEST_PAUSE_SECONDS, 2 * self._pauses.get(name, 0.5))
        return self._pauses[name]

    def _pid_file(self, name: str) -> Path:
        return self._pid_folder / f"{name}.pid"


def redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def postgres_answers(url: str, data: Path) -> bool:
    """Its database is made when there is none. To be asked too early, it calls a fatal error: so its own file is read first."""
    try:
        if (data / "postmaster.pid").read_text().splitlines()[7].strip() != "ready":
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
