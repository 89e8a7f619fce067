"""The phases of a rehearsal: rolling restart, SIGKILL, Redis restart. A supervisor has to start again what has exited."""

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

from app.operations.rehearsal.checks import MAX_BALANCE_SECONDS, MAX_RECOVERY_SECONDS, has_too_many
from app.operations.rehearsal.clients import ClientPool
from app.operations.rehearsal.machine import MachineLoad
from app.operations.rehearsal.measurements import Measurements, ObservedBalance, ObservedStop, RehearsalPhase
from app.operations.rehearsal.observers import ReadinessMonitor, StopHistory
from app.operations.rehearsal.plan import REDIS_RESTART, ROLLING_RESTART, SIGKILL, Plan
from app.redis.client import is_cluster

POLL_SECONDS = 0.03
STALL_DETECTION_SECONDS = 0.1  # a stall is recorded this long after its end at the latest
RESTART_SECONDS = 90.0  # for a new process to be ready
SETTLE_SECONDS = 30.0  # for all sockets to reconnect and to receive everything
UNDISTURBED_SECONDS = 1.0  # of load before and after each disturbance
AFTER_REDIS_SECONDS = MAX_RECOVERY_SECONDS + 1  # of load, to see that no request is refused any more


T = TypeVar("T")


class RehearsalFailed(Exception):
    """The rehearsal cannot continue; the message is the reason."""


class Scenario:
    def __init__(
        self,
        plan: Plan,
        measured: Measurements,
        readiness: ReadinessMonitor,
        clients: ClientPool,
        stop_history: StopHistory,
        redis_client: redis.Redis,
        machine_load: Callable[[float, float], MachineLoad],
        tell: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._measured = measured
        self._readiness = readiness
        self._clients = clients
        self._stop_history = stop_history
        self._redis = redis_client
        self._machine_load = machine_load
        self._tell = tell

    def run(self) -> None:
        """Run all phases of the plan. Raise RehearsalFailed."""
        self._wait_until_all_ready()
        before = self._stop_history.read()
        if before is None:
            raise RehearsalFailed("/api/fleet does not list the last stops: the logs of the instances show the reason")
        actions = {ROLLING_RESTART: self._rolling_restart, SIGKILL: self._kill_one, REDIS_RESTART: self._restart_redis}
        for name in self._plan.phases:
            if name == REDIS_RESTART and (reason := self._reason_against_redis_restart()):
                self._measured.remarks.append(f"Redis was not restarted: {reason}")
                continue
            with self._phase(name) as phase:
                actions[name](phase)
        after = self._stop_history.read()
        self._measured.reported_stops = None if after is None else [stop for nonce, stop in after.items() if nonce not in before]

    @contextmanager
    def _phase(self, name: str) -> Iterator[RehearsalPhase]:
        phase = RehearsalPhase(name, time.monotonic())
        self._measured.phases.append(phase)
        self._tell(name)
        try:
            gevent.sleep(UNDISTURBED_SECONDS)
            yield phase
            self._wait_until_settled()
            gevent.sleep(UNDISTURBED_SECONDS)
        finally:
            phase.ended = time.monotonic()
            phase.load = self._machine_load(phase.started, phase.ended)

    def _wait_until_all_ready(self) -> None:
        since = time.monotonic()
        for name in self._plan.instances:
            _process_of(self._plan.instances[name])
            if not wait_for(lambda name=name: self._readiness.first(name, 200, since), RESTART_SECONDS):  # type: ignore[misc]
                seen = ", ".join(sorted(self._readiness.names())) or "no instance"
                raise RehearsalFailed(
                    f"{name} is not ready: it never answered /health/ready with 200 (answers came from: {seen})"
                )

    def _wait_until_settled(self) -> None:
        """Wait with a timeout that is not an error: the report shows which sockets and notifications are missing."""
        wait_for(self._clients.is_settled, SETTLE_SECONDS)

    def _rolling_restart(self, _: RehearsalPhase) -> None:
        for name, pid_file in self._plan.instances.items():
            process = _process_of(pid_file)
            signalled_at = time.monotonic()
            _signal(process, signal.SIGTERM)
            exited_at = self._wait_for_exit(name, process)
            ready_at = self._wait_for_successor(name, pid_file, process, exited_at)
            unready_at = self._readiness.first(name, 503, signalled_at, until=exited_at)
            closings = self._clients.closings(name, signalled_at)
            load = self._machine_load(signalled_at, exited_at + STALL_DETECTION_SECONDS)
            stop = ObservedStop(name, signalled_at, exited_at, ready_at, unready_at, closings, load)
            self._measured.stops.append(stop)
            self._tell(
                f"  {name} stopped in {exited_at - signalled_at:.1f} s and was ready again {ready_at - exited_at:.1f} s later"
            )
            self._wait_until_settled()
        if self._measured.settings.rebalances and len(self._plan.instances) > 1:
            self._measured.balance = self._wait_until_balanced(name)
        self._clients.close_bystanders()

    def _wait_until_balanced(self, restarted: str) -> ObservedBalance:
        """Wait until the instance that was restarted last has its share of the sockets. It is like one that was added."""

        def counts() -> dict[str, int]:
            return {name: self._clients.count(name) for name in self._plan.instances}

        started = time.monotonic()
        is_balanced = wait_for(lambda: self._clients.is_settled() and not has_too_many(counts()), MAX_BALANCE_SECONDS)
        seconds = time.monotonic() - started
        self._wait_until_settled()
        return ObservedBalance(restarted, counts(), seconds if is_balanced else None)

    def _kill_one(self, phase: RehearsalPhase) -> None:
        by_sockets = sorted(self._plan.instances, key=self._clients.count)
        name = by_sockets[len(by_sockets) // 2]  # the instance that was restarted last has no sockets yet
        pid_file = self._plan.instances[name]
        process = _process_of(pid_file)
        victims = [process, *process.children(recursive=True)]  # gunicorn's master first: it would start a new worker
        phase.killed, phase.killed_at = name, time.monotonic()
        for victim in victims:
            _signal(victim, signal.SIGKILL)
        exited_at = self._wait_for_exit(name, process)
        ready_at = self._wait_for_successor(name, pid_file, process, exited_at)
        self._tell(f"  {name} was killed and was ready again after {ready_at - phase.killed_at:.1f} s")

    def _wait_for_exit(self, name: str, process: psutil.Process) -> float:
        def has_exited() -> bool:
            gevent.spawn(self._readiness.poll)  # faster than usual: without SHUTDOWN_DELAY the 503 is visible only briefly
            return _has_exited(process)

        if not wait_for(has_exited, RESTART_SECONDS):
            raise RehearsalFailed(
                f"{name} did not stop: process {process.pid} is still running {RESTART_SECONDS:.0f} s after the signal"
            )
        return time.monotonic()

    def _wait_for_successor(self, name: str, pid_file: str, before: psutil.Process, exited_at: float) -> float:
        if not wait_for(lambda: _is_replaced(pid_file, before), RESTART_SECONDS):
            raise RehearsalFailed(f"{name} was not started again: {pid_file} names no new process")
        ready_at = wait_for(lambda: self._readiness.first(name, 200, exited_at), RESTART_SECONDS)
        if not ready_at:
            raise RehearsalFailed(f"{name} did not become ready again: see its log for the reason")
        return ready_at

    def _reason_against_redis_restart(self) -> str | None:
        if not self._plan.redis_restart:
            return "--redis-restart was not given"
        if is_cluster(self._redis):
            return "REDIS_URL is a Redis Cluster, of which one command would restart only a part"
        try:
            info, save = self._redis.info("persistence"), self._redis.config_get("save")
        except redis.ResponseError:  # managed Redis services forbid these commands
            return None
        except redis.RedisError as error:
            raise RehearsalFailed(f"Redis is not available: {type(error).__name__}") from None
        if info.get("aof_enabled") or save.get("save"):
            return None
        return "it does not persist its data (appendonly no), so all users would be signed out"

    def _restart_redis(self, phase: RehearsalPhase) -> None:
        assert self._plan.redis_restart
        before = self._run_id()
        phase.down_at = time.monotonic()
        with subprocess.Popen(self._plan.redis_restart, shell=True, stdout=subprocess.DEVNULL) as command:  # noqa: S602 - the operator's own
            if not wait_for(lambda: self._run_id() not in (None, before), RESTART_SECONDS):
                command.kill()
                raise RehearsalFailed(f"Redis was not restarted within {RESTART_SECONDS:.0f} s by: {self._plan.redis_restart}")
            phase.back_at = time.monotonic()
        self._tell(f"  Redis was unavailable for {phase.back_at - phase.down_at:.1f} s")
        self._wait_until_settled()
        gevent.sleep(max(0.0, phase.back_at + AFTER_REDIS_SECONDS - time.monotonic()))

    def _run_id(self) -> str | None:
        """Return Redis' run ID, which changes with each start, or None while Redis is unavailable."""
        try:
            run_id: str = self._redis.info("server")["run_id"]
        except redis.RedisError:
            return None
        return run_id


def _process_of(pid_file: str) -> psutil.Process:
    process = _running_process(pid_file)
    if process is None:
        raise RehearsalFailed(f"{pid_file} names no running process")
    return process


def _running_process(pid_file: str) -> psutil.Process | None:
    try:
        process = psutil.Process(int(Path(pid_file).read_text()))
        return None if _has_exited(process) else process
    except (OSError, ValueError, psutil.NoSuchProcess):  # no pid file, or a partly written one
        return None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.AccessDenied:
        raise RehearsalFailed(
            f"no permission to signal process {process.pid}: run the rehearsal as its owner or as root"
        ) from None
    except psutil.NoSuchProcess:
        return  # it exited in the meantime


def _is_replaced(pid_file: str, before: psutil.Process) -> bool:
    now = _running_process(pid_file)
    return now is not None and now != before


def _has_exited(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], T], timeout: float) -> T | None:
    """Return the condition's first true value, or None after the timeout in seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := condition():
            return found
        gevent.sleep(POLL_SECONDS)
    return None
