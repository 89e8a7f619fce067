"""The phases of an instance: starting, ready, draining, stopped; and what each of them does."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

import gevent

from app.core import metrics
from app.core.errors import Unavailable, cause_of
from app.server.stop_report import CLEAN, StopReport

log = logging.getLogger(__name__)

STARTING, READY, DRAINING, STOPPED = "starting", "ready", "draining", "stopped"

_NUMBERS = re.compile(r"\d+ s\b")

RESTART_SECONDS = 1.0
WATCH_SECONDS = 1.0
LAST_CHANCE_SECONDS = 0.1  # for each part that is to be closed, though the time is over
SET_ASIDE_SECONDS = 3600.0  # an instance that an administrator drained has all the time that DRAIN_RATE asks for

Check = Callable[[], str | None]  # a reason not to be ready, or None
LetGo = Callable[
    [float], int | None
]  # within so many seconds, give up what would keep the instance from stopping; how many it was


class Lifecycle:
    """Built by the wiring; started and stopped by the process (gunicorn's worker), so that a command line has no background."""

    def __init__(self) -> None:
        self.phase = STARTING
        self.set_aside = False  # drained by an administrator, until called back
        self.report: StopReport | None = None  # of the stop that is under way
        self.count_connections: Callable[[], int] = lambda: 0  # open ones of clients; the process knows
        self.count_websockets: Callable[[], int] = lambda: 0  # which the process has handed over, and waits for when it stops
        self._background: list[Callable[[], None]] = []
        self._checks: list[Check] = []
        self._shed: list[tuple[str, LetGo]] = []
        self._let_go: list[tuple[str, LetGo]] = []
        self._closers: list[tuple[str, Callable[[], None]]] = []
        self._announcements: list[Callable[[], object]] = []
        self._shedding: gevent.Greenlet | None = None  # by an administrator's order

    def add(
        self,
        name: str,
        *,
        background: Callable[[], None] | None = None,
        check: Check | None = None,
        shed: LetGo | None = None,
        let_go: LetGo | None = None,
        close: Callable[[], None] | None = None,
        announce: Callable[[], object] | None = None,
    ) -> None:
        """What a part does beside requests: run for ever, stand in the way of readiness, send its clients elsewhere (`shed`),
        let go of work for good, be closed at the end, tell others at once that the instance stops (`announce`)."""
        if background:
            self._background.append(background)
        if check:
            self._checks.append(check)
        if shed:
            self._shed.append((name, shed))
        if let_go:
            self._let_go.append((name, let_go))
        if close:
            self._closers.append((name, close))
        if announce:
            self._announcements.append(announce)

    @property
    def is_stopping(self) -> bool:
        return self.phase in (DRAINING, STOPPED)

    @property
    def is_leaving(self) -> bool:
        """Whether clients that would stay are sent elsewhere."""
        return self.set_aside or self.is_stopping

    @property
    def status(self) -> str:
        return DRAINING if self.is_leaving else self.phase

    def obstacles(self) -> list[str]:
        """The reasons against readiness."""
        if self.is_stopping:
            return [self.phase]
        aside = ["drained by an administrator"] if self.set_aside else []
        return aside + [reason for check in self._checks if (reason := check())]

    def check_readiness(self) -> list[str]:
        """The reasons against it, at each moment anew. An instance has started when there is none for the first time."""
        obstacles = self.obstacles()
        if self.phase == STARTING and not obstacles:
            self.phase = READY
        metrics.ready.set(not obstacles)
        return obstacles

    def watch(self) -> None:
        """Until the instance stops, as a greenlet: keeps the metric true, and tells each change of readiness in the log."""
        told: str | None = None
        gevent.sleep(WATCH_SECONDS)
        while self.phase in (STARTING, READY):
            reasons = "; ".join(self.check_readiness())
            gist = _NUMBERS.sub("", reasons)  # how long it has been so is no news
            if gist != told:
                log.log(logging.WARNING if reasons else logging.INFO, "not ready: %s" if reasons else "ready%s", reasons)
            told = gist
            gevent.sleep(WATCH_SECONDS)

    def start(self) -> None:
        for run in [*self._background, self.watch]:
            gevent.spawn(_keep_running, run)

    def put_aside(self, wanted: bool) -> None:
        """As an administrator orders: out of the balancer's sight and without sockets, or back again."""
        if wanted != self.set_aside and self.phase in (STARTING, READY):
            self.set_aside = wanted
            log.info("drained by an administrator" if wanted else "no longer drained")
            if wanted and not self._shedding:  # an earlier one, in the middle of which there was a call back, goes on
                self._shedding = gevent.spawn(self._send_clients_elsewhere)

    def _send_clients_elsewhere(self) -> None:
        report = StopReport()
        _let_all_go(report, self._shed, SET_ASIDE_SECONDS)
        self._shedding = None
        log.info("sent elsewhere: %s", report.summary)

    def drain(self) -> StopReport:
        log.info("draining: no longer ready")
        self.phase = DRAINING
        self.report = StopReport()
        metrics.ready.set(0)
        if self._shedding:
            self._shedding.kill(block=False)  # the stop has its own time for that
        for announce in self._announcements:
            gevent.spawn(announce)
        return self.report

    def let_go(self, report: StopReport, seconds: float) -> None:
        """Between draining and stopping, while requests are still served: all parts at once, in so many seconds at most."""
        _let_all_go(report, self._shed + self._let_go, seconds)

    def stop(self, report: StopReport, seconds: float) -> bool:
        """Closes what was opened, in reverse; one that can't be closed does not keep the others from it. True: all was clean."""
        self.phase = STOPPED
        deadline = time.monotonic() + seconds
        with report.phase("close") as phase:
            failed = [name for name, close in reversed(self._closers) if not _closed(name, close, deadline)]
            phase.cut_off = f"could not close {' and '.join(failed)}" if failed else ""
        clean = report.kind == CLEAN
        log.log(logging.INFO if clean else logging.WARNING, "stopped: %s", report.summary)
        return clean


def _let_all_go(report: StopReport, parts: list[tuple[str, LetGo]], seconds: float) -> None:
    def run(name: str, let_go: LetGo) -> None:
        with report.phase(name) as phase, gevent.Timeout(seconds, TimeoutError("not done in time")):
            phase.count = let_go(seconds)

    gevent.joinall([gevent.spawn(run, *part) for part in parts])


def _closed(name: str, close: Callable[[], None], deadline: float) -> bool:
    try:
        with gevent.Timeout(max(LAST_CHANCE_SECONDS, deadline - time.monotonic()), TimeoutError("not done in time")):
            close()
    except (Unavailable, TimeoutError) as error:
        log.warning("could not close %s: %s", name, cause_of(error) or error)
        return False
    except Exception:
        log.exception("could not close %s", name)
        return False
    return True


def _keep_running(run: Callable[[], None]) -> None:
    """An instance whose heartbeat or probe has died would go on as if nothing were wrong."""
    while True:
        try:
            return run()
        except Exception:
            log.exception("background work failed, and begins again")
            gevent.sleep(RESTART_SECONDS)
