"""The states of an instance (starting, ready, draining, stopped) and the hooks that its parts register for them."""

import logging
import re
import time
from collections.abc import Callable

import gevent

from app.core import metrics
from app.core.errors import Unavailable, cause_of
from app.core.tasks import InstanceTask
from app.server.stop_report import CLEAN, StopReport

log = logging.getLogger(__name__)

STARTING, READY, DRAINING, STOPPED = "starting", "ready", "draining", "stopped"

_DURATION = re.compile(r"\d+ s\b")

RESTART_SECONDS = 1.0
WATCH_SECONDS = 1.0
MIN_CLOSE_SECONDS = 0.1  # for each part, even after the deadline
RECORD_SECONDS = 0.5  # of the time for closing: reserved for storing the report
DRAIN_SECONDS = 3600.0  # without a stop there is no deadline, and DRAIN_RATE sets the pace

NotReadyReason = Callable[[], str | None]
StopHook = Callable[[float], int | None]  # takes the timeout in seconds, returns how many connections or jobs it ended


class Lifecycle:
    """The wiring registers the parts; the process (gunicorn's worker) starts and stops them. A command only registers them."""

    def __init__(self) -> None:
        self.phase = STARTING
        self.drained = False  # by an administrator, who can undo it
        self.report: StopReport | None = None  # set when the stop begins
        self.count_connections: Callable[[], int] = lambda: 0  # open client connections; set by the process
        self.count_websockets: Callable[[], int] = lambda: 0  # open WebSockets, which gunicorn no longer knows
        self._background: list[tuple[str, Callable[[], None]]] = []
        self._checks: list[NotReadyReason] = []
        self._disconnect_clients: list[tuple[str, StopHook]] = []
        self._on_stop_begin: list[tuple[str, StopHook]] = []
        self._closers: list[tuple[str, Callable[[], None]]] = []
        self._after_report: list[tuple[str, Callable[[], None]]] = []
        self._on_drain: list[Callable[[], object]] = []
        self._disconnecting: gevent.Greenlet | None = None  # while an administrator's drain disconnects clients

    def add(
        self,
        name: str,
        *,
        background: Callable[[], None] | None = None,
        check: NotReadyReason | None = None,
        disconnect_clients: StopHook | None = None,
        on_stop_begin: StopHook | None = None,
        close: Callable[[], None] | None = None,
        after_report: Callable[[], None] | None = None,
        on_drain: Callable[[], object] | None = None,
    ) -> None:
        """Register the hooks of one part of the application.

        `background` runs in a greenlet until it returns and is restarted after an error. `check` returns a reason why the
        instance is not ready, or None. `disconnect_clients` runs on every drain, `on_stop_begin` only when the instance stops,
        both while requests are still served. `on_drain` hooks announce the stop to others and run in greenlets. `close` hooks
        run at the end in reverse order. `after_report` hooks run after all of them, also in reverse order: they store the
        complete report and close the connection that this needs.
        """
        if background:
            self._background.append((name, background))
        if check:
            self._checks.append(check)
        if disconnect_clients:
            self._disconnect_clients.append((name, disconnect_clients))
        if on_stop_begin:
            self._on_stop_begin.append((name, on_stop_begin))
        if close:
            self._closers.append((name, close))
        if after_report:
            self._after_report.append((name, after_report))
        if on_drain:
            self._on_drain.append(on_drain)

    @property
    def is_stopping(self) -> bool:
        return self.phase in (DRAINING, STOPPED)

    @property
    def is_draining(self) -> bool:
        """Whether clients are disconnected and new sockets refused: by an administrator's order, or because of a stop."""
        return self.drained or self.is_stopping

    @property
    def status(self) -> str:
        return DRAINING if self.is_draining else self.phase

    def not_ready_reasons(self) -> list[str]:
        if self.is_stopping:
            return [self.phase]
        drained = ["drained by an administrator"] if self.drained else []
        return drained + [reason for check in self._checks if (reason := check())]

    def check_readiness(self) -> list[str]:
        """Return the current reasons for not being ready. The first call that finds none ends the phase `starting`."""
        reasons = self.not_ready_reasons()
        if self.phase == STARTING and not reasons:
            self.phase = READY
        metrics.ready.set(not reasons)
        return reasons

    def watch(self) -> None:
        """Update the metric and log each change of readiness until the instance stops."""
        last_logged: str | None = None
        task = InstanceTask("readiness watch", WATCH_SECONDS)
        gevent.sleep(WATCH_SECONDS)
        while self.phase in (STARTING, READY):
            reasons = "; ".join(self.check_readiness())
            without_durations = _DURATION.sub("", reasons)  # or a growing "for 12 s" would be logged every second
            if without_durations != last_logged:
                if reasons:
                    log.warning("not ready: %s", reasons)
                else:
                    log.info("instance is ready")
            last_logged = without_durations
            task.succeed()
            gevent.sleep(WATCH_SECONDS)

    def start(self) -> None:
        for name, run in [*self._background, ("readiness watch", self.watch)]:
            gevent.spawn(_run_and_restart, name, run)

    def set_drained(self, drained: bool) -> None:
        """Drain the instance without stopping it, or undo that. An instance that stops ignores it."""
        if drained != self.drained and self.phase in (STARTING, READY):
            self.drained = drained
            log.info("drained by an administrator" if drained else "no longer drained")
            if drained and not self._disconnecting:  # one that was undone half-way is still running and continues
                self._disconnecting = gevent.spawn(self._disconnect_drained_clients)

    def _disconnect_drained_clients(self) -> None:
        report = StopReport()
        _run_stop_hooks(report, self._disconnect_clients, DRAIN_SECONDS)
        self._disconnecting = None
        log.info("disconnected clients after drain: %s", report.summary)

    def drain(self) -> StopReport:
        """Begin the stop: readiness turns 503 at once."""
        log.info("stop requested: draining, no longer ready")
        self.phase = DRAINING
        self.report = StopReport()
        metrics.ready.set(0)
        if self._disconnecting:
            self._disconnecting.kill(block=False)  # the stop disconnects the rest, within its own deadline
        for announce in self._on_drain:
            gevent.spawn(announce)
        return self.report

    def begin_stop(self, report: StopReport, seconds: float) -> None:
        """Disconnect clients and end background work, all hooks in parallel. Requests are still served."""
        _run_stop_hooks(report, self._disconnect_clients + self._on_stop_begin, seconds)

    def stop(self, report: StopReport, seconds: float) -> bool:
        """Close all parts in reverse order, log the report and store it. Return whether the whole stop was clean."""
        self.phase = STOPPED
        deadline = time.monotonic() + seconds
        with report.phase("close") as phase:
            failed = _close_all(self._closers[::-1], deadline - RECORD_SECONDS)
            phase.cut_off = f"could not close {' and '.join(failed)}" if failed else ""
        clean = report.kind == CLEAN
        log.log(logging.INFO if clean else logging.WARNING, "stopped: %s", report.summary)
        return not _close_all(self._after_report[::-1], deadline) and clean


def _run_stop_hooks(report: StopReport, hooks: list[tuple[str, StopHook]], seconds: float) -> None:
    def run(name: str, hook: StopHook) -> None:
        with report.phase(name) as phase, gevent.Timeout(seconds, TimeoutError("not done in time")):
            phase.count = hook(seconds)

    gevent.joinall([gevent.spawn(run, *named) for named in hooks])


def _close_all(closers: list[tuple[str, Callable[[], None]]], deadline: float) -> list[str]:
    """Return the names of those that failed; one failure does not keep the others open."""
    return [name for name, close in closers if not _close_one(name, close, deadline)]


def _close_one(name: str, close: Callable[[], None], deadline: float) -> bool:
    try:
        with gevent.Timeout(max(MIN_CLOSE_SECONDS, deadline - time.monotonic()), TimeoutError("not done in time")):
            close()
    except (Unavailable, TimeoutError) as error:
        log.warning("could not close %s: %s", name, cause_of(error) or error)
        return False
    except Exception:
        log.exception("could not close %s", name)
        return False
    return True


def _run_and_restart(name: str, run: Callable[[], None]) -> None:
    """Without the restart, an instance with a dead heartbeat or probe would appear healthy."""
    while True:
        try:
            return run()
        except Exception:
            log.exception("background task %s failed, restarting in %g s", name, RESTART_SECONDS)
            gevent.sleep(RESTART_SECONDS)
