"""The process around an instance: gunicorn's worker, and the claim on the data folder of embedded mode."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterable
from typing import IO, Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

from app.config import EX_CONFIG, Config
from app.lifecycle import Lifecycle

IDLE_CHECK_SECONDS = 0.1
GIVE_UP_SECONDS = 4  # before SHUTDOWN_TIMEOUT is over


class InstanceWorker(GeventWorker):  # type: ignore[misc] # gunicorn has no type hints
    """Stops gracefully on SIGTERM, and on Ctrl-C: first it says that it is no longer ready, then it finishes its requests.

    No hook of gunicorn runs when a stop begins (https://github.com/benoitc/gunicorn/issues/1464), hence the class. Connections
    that are kept alive without a request are closed, which gunicorn would wait for.
    """

    number: int
    lifecycle: Lifecycle | None = None
    drain_seconds = 0
    _stopping = False

    def init_process(self) -> None:
        self._idle: set[_WaitForRequest] = set()
        super().init_process()

    def timeout_ctx(self) -> _WaitForRequest:
        return _WaitForRequest(self.cfg.keepalive, self._idle)

    def handle_exit(self, _signal: int, _frame: Any) -> None:
        # Runs in the event loop's own greenlet, which must not wait. The signal may come again, from the master and the platform.
        if not self._stopping:
            self._stopping = True
            gevent.spawn(self._stop)

    handle_quit = handle_exit

    def handle_request(self, *arguments: Any) -> Any:
        # A connection whose next request is always there already would never let go: nobody else would be served, and the
        # master would take the event loop for dead.
        gevent.sleep(0)
        return super().handle_request(*arguments)

    def _stop(self) -> None:
        # gunicorn's loop begins its count up to a second after this, and needs a second or two for what is left then.
        # What it does not finish in time, the master would end with a SIGKILL.
        deadline = time.monotonic() + self.cfg.graceful_timeout - GIVE_UP_SECONDS
        if self.lifecycle:
            self.lifecycle.drain()
            gevent.sleep(self.drain_seconds)
            self.lifecycle.let_go(max(1, deadline - time.monotonic() - 1))
        self.cfg.set("graceful_timeout", max(1, int(deadline - time.monotonic())))
        self.alive = False
        while True:  # until gunicorn's loop ends the process
            for wait in list(self._idle):
                wait.end()
            gevent.sleep(IDLE_CHECK_SECONDS)


class _WaitForRequest(gevent.Timeout):  # type: ignore[misc] # gevent has no type hints
    """The time that a connection may be idle. gunicorn waits for the next request inside of it."""

    def __init__(self, seconds: float, idle: set[_WaitForRequest]) -> None:
        super().__init__(seconds, False)
        self._idle = idle

    def __enter__(self) -> _WaitForRequest:
        self._greenlet = gevent.getcurrent()
        self._idle.add(self)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        self._idle.discard(self)
        return super().__exit__(*exception)

    def end(self) -> None:
        """As if the time were over, unless a request comes before the event loop gets to it."""
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        if self in self._idle:
            self._greenlet.throw(self)


def lowest_free_number(workers: Iterable[Any]) -> int:
    """For a new worker: a worker that ended leaves its number, and so its instance id, to the one that follows it."""
    taken = {worker.number for worker in workers}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


_claim: IO[str] | None = None  # held until the last process of this instance ends


def claim_data_folder(config: Config) -> None:
    """Embedded mode is one instance on its data: a second one is refused."""
    global _claim
    if config.use_redis_sessions:
        return
    _claim = (config.data_folder / "lock").open("w")
    try:
        fcntl.flock(_claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.stderr.write(
            f"RepoRadar does not start: another embedded instance runs on the data in {config.data_folder}.\n"
            "For several instances use Redis and PostgreSQL (USE_REDIS_SESSIONS=true).\n"
        )
        sys.exit(EX_CONFIG)
