"""The phases of an instance: starting, ready, draining, stopped; and what each of them does."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from app import metrics

log = logging.getLogger(__name__)

STARTING, READY, DRAINING, STOPPED = "starting", "ready", "draining", "stopped"

RESTART_SECONDS = 1.0
WATCH_SECONDS = 1.0

Check = Callable[[], str | None]  # a reason not to be ready, or None
LetGo = Callable[[float], None]  # within so many seconds, give up what would keep the instance from stopping


class Lifecycle:
    """Built by the wiring; started and stopped by the process (gunicorn's hooks), so that a command line has no background."""

    def __init__(self) -> None:
        self.phase = STARTING
        self._background: list[Callable[[], None]] = []
        self._checks: list[Check] = []
        self._let_go: list[LetGo] = []
        self._closers: list[Callable[[], None]] = []

    def add(
        self,
        *,
        background: Callable[[], None] | None = None,
        check: Check | None = None,
        let_go: LetGo | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """What a part does beside requests: run for ever, stand in the way of readiness, let go of work, be closed at the end."""
        if background:
            self._background.append(background)
        if check:
            self._checks.append(check)
        if let_go:
            self._let_go.append(let_go)
        if close:
            self._closers.append(close)

    def _obstacles(self) -> list[str]:
        if self.phase in (DRAINING, STOPPED):
            return [self.phase]
        return [reason for check in self._checks if (reason := check())]

    def check_readiness(self) -> list[str]:
        """The reasons against it, at each moment anew. An instance has started when there is none for the first time."""
        obstacles = self._obstacles()
        if self.phase == STARTING and not obstacles:
            self.phase = READY
        metrics.ready.set(not obstacles)
        return obstacles

    def watch(self) -> None:
        """Until the instance stops, as a greenlet: keeps the metric true, and tells each change of readiness in the log."""
        was_ready: bool | None = None
        gevent.sleep(WATCH_SECONDS)
        while self.phase in (STARTING, READY):
            obstacles = self.check_readiness()
            if not obstacles and not was_ready:
                log.info("ready")
            elif obstacles and was_ready is not False:
                log.warning("not ready: %s", "; ".join(obstacles))
            was_ready = not obstacles
            gevent.sleep(WATCH_SECONDS)

    def start(self) -> None:
        for run in [*self._background, self.watch]:
            gevent.spawn(_keep_running, run)

    def drain(self) -> None:
        log.info("draining: no longer ready")
        self.phase = DRAINING
        metrics.ready.set(0)

    def let_go(self, seconds: float) -> None:
        """Between draining and stopping, while requests are still served: all parts at once, in so many seconds at most."""
        gevent.joinall([gevent.spawn(_logged, let_go, seconds) for let_go in self._let_go], timeout=seconds)

    def stop(self) -> None:
        """Closes what was opened, in reverse; a part that can't be closed does not keep the others from it."""
        self.phase = STOPPED
        for close in reversed(self._closers):
            _logged(close)
        log.info("stopped")


def _logged(finish: Callable[..., None], *arguments: float) -> None:
    try:
        finish(*arguments)
    except Exception:
        log.exception("could not finish %s", finish)


def _keep_running(run: Callable[[], None]) -> None:
    """An instance whose heartbeat or probe has died would go on as if nothing were wrong."""
    while True:
        try:
            return run()
        except Exception:
            log.exception("background work failed, and begins again")
            gevent.sleep(RESTART_SECONDS)
