"""What happens to the fleet: a rolling restart, a SIGKILL, a restart of Redis. A supervisor starts again what has ended."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import gevent
import psutil
import redis

from app.operations.rehearsal.judgement import MAX_RECOVERY
from app.operations.rehearsal.measurements import Measurements, Phase, Stop
from app.operations.rehearsal.observers import Account, Crowd, Readiness
from app.operations.rehearsal.plan import REDIS_RESTART, ROLLING_RESTART, SIGKILL, Plan

POLL_SECONDS = 0.03
A_MOMENT_SECONDS = 0.1  # after which a stall is known that has just ended
BACK_SECONDS = 90.0  # for a new process to be ready; a fleet that needs longer is not rehearsed but repaired
CALM_SECONDS = 30.0  # for all sockets to be back, and to have heard everything
BREATH_SECONDS = 1.0  # of undisturbed load before and after each disturbance
AFTER_REDIS_SECONDS = MAX_RECOVERY + 1  # of load, to see that nothing is refused any more


T = TypeVar("T")


class Failed(Exception):
    """The rehearsal can't go on; the message says why."""


class Scenario:
    def __init__(
        self,
        plan: Plan,
        measured: Measurements,
        readiness: Readiness,
        crowd: Crowd,
        account: Account,
        redis_client: redis.Redis,
        stall: Callable[[float, float], float],
        tell: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._measured = measured
        self._readiness = readiness
        self._crowd = crowd
        self._account = account
        self._redis = redis_client
        self._stall = stall
        self._tell = tell

    def run(self) -> None:
        """Raises Failed."""
        self._await_all_ready()
        before = self._account.stops()
        acts = {ROLLING_RESTART: self._rolling_restart, SIGKILL: self._kill_one, REDIS_RESTART: self._restart_redis}
        for name in self._plan.phases:
            if name == REDIS_RESTART and (obstacle := self._redis_obstacle()):
                self._measured.remarks.append(f"no restart of Redis: {obstacle}")
                continue
            with self._phase(name) as phase:
                acts[name](phase)
        self._measured.told = [stop for nonce, stop in self._account.stops().items() if nonce not in before]

    @contextmanager
    def _phase(self, name: str) -> Iterator[Phase]:
        phase = Phase(name, time.monotonic())
        self._measured.phases.append(phase)
        self._tell(name)
        try:
            gevent.sleep(BREATH_SECONDS)
            yield phase
            self._await_calm()
            gevent.sleep(BREATH_SECONDS)
        finally:
            phase.ended = time.monotonic()
            phase.stall = self._stall(phase.started, phase.ended)

    def _await_all_ready(self) -> None:
        since = time.monotonic()
        for name in self._plan.instances:
            _process_of(self._plan.instances[name])
            if not wait_for(lambda name=name: self._readiness.first(name, 200, since), BACK_SECONDS):  # type: ignore[misc]
                seen = ", ".join(sorted(self._readiness.names())) or "nobody"
                raise Failed(f"{name} is not ready: /health/ready was answered by {seen}, and not with 200 by {name}")

    def _await_calm(self) -> None:
        """Or not: what is missing then is what the report is about."""
        wait_for(self._crowd.is_calm, CALM_SECONDS)

    def _rolling_restart(self, _: Phase) -> None:
        for name, pid_file in self._plan.instances.items():
            process = _process_of(pid_file)
            asked_at = time.monotonic()
            _signal(process, signal.SIGTERM)
            gone_at = self._await_end(name, process)
            ready_at = self._await_successor(name, pid_file, process, gone_at)
            unready_at = self._readiness.first(name, 503, asked_at, until=gone_at)
            closings = self._crowd.closings(name, asked_at)
            stall = self._stall(min(closings), max(closings) + A_MOMENT_SECONDS) if closings else 0.0
            stop = Stop(name, asked_at, gone_at, ready_at, unready_at, closings, stall)
            self._measured.stops.append(stop)
            self._tell(f"  {name} stopped in {gone_at - asked_at:.1f} s, was ready again after {ready_at - gone_at:.1f} s")
            self._await_calm()
        self._crowd.dismiss_bystanders()

    def _kill_one(self, phase: Phase) -> None:
        by_sockets = sorted(self._plan.instances, key=self._crowd.count)
        name = by_sockets[len(by_sockets) // 2]  # the one that was restarted last has none by now
        pid_file = self._plan.instances[name]
        process = _process_of(pid_file)
        doomed = [process, *process.children(recursive=True)]  # gunicorn's master first: it would start a new worker
        phase.killed, phase.killed_at = name, time.monotonic()
        for one in doomed:
            _signal(one, signal.SIGKILL)
        gone_at = self._await_end(name, process)
        ready_at = self._await_successor(name, pid_file, process, gone_at)
        self._tell(f"  {name} was killed, and ready again after {ready_at - phase.killed_at:.1f} s")

    def _await_end(self, name: str, process: psutil.Process) -> float:
        def is_gone() -> bool:
            gevent.spawn(self._readiness.ask)  # more often than else: without SHUTDOWN_DELAY there is little time to see it turn
            return _is_gone(process)

        if not wait_for(is_gone, BACK_SECONDS):
            raise Failed(f"{name} did not stop: process {process.pid} still runs {BACK_SECONDS:.0f} s after its signal")
        return time.monotonic()

    def _await_successor(self, name: str, pid_file: str, before: psutil.Process, gone_at: float) -> float:
        if not wait_for(lambda: _successor(pid_file, before), BACK_SECONDS):
            raise Failed(f"{name} was not started again: {pid_file} names no new process")
        ready_at = wait_for(lambda: self._readiness.first(name, 200, gone_at), BACK_SECONDS)
        if not ready_at:
            raise Failed(f"{name} did not become ready again: its log says why")
        return ready_at

    # Redis.

    def _redis_obstacle(self) -> str | None:
        if not self._plan.redis_restart:
            return "--redis-restart was not given"
        try:
            info, save = self._redis.info("persistence"), self._redis.config_get("save")
        except redis.ResponseError:  # a managed Redis keeps these commands to itself
            return None
        except redis.RedisError as error:
            raise Failed(f"Redis does not answer: {type(error).__name__}") from None
        if info.get("aof_enabled") or save.get("save"):
            return None
        return "it keeps nothing (appendonly no), which would sign everybody out"

    def _restart_redis(self, phase: Phase) -> None:
        assert self._plan.redis_restart
        before = self._run_id()
        phase.down_at = time.monotonic()
        with subprocess.Popen(self._plan.redis_restart, shell=True, stdout=subprocess.DEVNULL) as command:  # noqa: S602 - the operator's own
            if not wait_for(lambda: self._run_id() not in (None, before), BACK_SECONDS):
                command.kill()
                raise Failed(f"Redis was not restarted within {BACK_SECONDS:.0f} s by: {self._plan.redis_restart}")
            phase.back_at = time.monotonic()
        self._tell(f"  Redis was away for {phase.back_at - phase.down_at:.1f} s")
        self._await_calm()
        gevent.sleep(max(0.0, phase.back_at + AFTER_REDIS_SECONDS - time.monotonic()))

    def _run_id(self) -> str | None:
        """It is another one after each start of Redis."""
        try:
            run_id: str = self._redis.info("server")["run_id"]
        except redis.RedisError:
            return None
        return run_id


def _process_of(pid_file: str) -> psutil.Process:
    process = _named_in(pid_file)
    if process is None:
        raise Failed(f"{pid_file} names no running process")
    return process


def _named_in(pid_file: str) -> psutil.Process | None:
    try:
        process = psutil.Process(int(Path(pid_file).read_text()))
        return None if _is_gone(process) else process
    except (OSError, ValueError, psutil.NoSuchProcess):  # there is none, or it is being written
        return None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.AccessDenied:
        raise Failed(f"process {process.pid} is another user's: rehearse as one who may stop it") from None
    except psutil.NoSuchProcess:
        return  # it has ended by itself


def _successor(pid_file: str, before: psutil.Process) -> bool:
    now = _named_in(pid_file)
    return now is not None and now != before


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], T], seconds: float) -> T | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        gevent.sleep(POLL_SECONDS)
    return None
