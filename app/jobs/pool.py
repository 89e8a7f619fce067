"""The threads that run the jobs of a process. Where gevent has patched the standard library they are greenlets."""

import threading
import time
from collections.abc import Sequence
from typing import Protocol

import dramatiq

# An idle thread notices a stop after this time. Over Redis it is also the longest pause between two fetches.
POLL_MS, EMBEDDED_POLL_MS = 1000, 100


class JobHandler(Protocol):
    """Runs the jobs of one kind."""

    def requeue_all(self) -> None: ...

    def stop(self) -> None: ...


class BackgroundWorker(Protocol):
    """Runs beside the jobs, in a thread of its own, until it is stopped."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


class WorkerPool:
    """Dramatiq's worker threads for the jobs, and one thread for each background worker."""

    def __init__(
        self,
        broker: dramatiq.Broker,
        handlers: Sequence[JobHandler],
        background_workers: Sequence[BackgroundWorker],
        size: int,
        *,
        is_embedded: bool = False,
    ) -> None:
        """`size` is the number of concurrent jobs. `is_embedded`: no other process runs jobs, so unfinished ones are resumed."""
        self._is_embedded = is_embedded
        self._is_stopped = False
        self._worker = dramatiq.Worker(broker, worker_threads=size, worker_timeout=EMBEDDED_POLL_MS if is_embedded else POLL_MS)
        self._worker.queue_prefetch = size  # jobs prefetched beyond that would wait here while other processes are idle
        self._handlers = handlers
        self._background_workers = background_workers
        self._threads = [
            threading.Thread(target=worker.run, name=type(worker).__name__.lower(), daemon=True) for worker in background_workers
        ]

    def start(self) -> None:
        if self._is_embedded and not self._is_stopped:
            for handler in self._handlers:
                handler.requeue_all()
        if self._is_stopped:  # while the jobs were enqueued
            return
        self._worker.start()
        for thread in self._threads:
            thread.start()

    def is_running(self) -> bool:
        """Return whether all threads run. An outage ends none of them, an unforeseen error may."""
        return all(thread.is_alive() for thread in self._all_threads())

    def count_threads(self) -> int:
        """Return how many threads run: after `stop`, those that did not end in time."""
        return sum(thread.is_alive() for thread in self._all_threads())

    def _all_threads(self) -> list[threading.Thread]:
        return [*self._worker.consumers.values(), *self._worker.workers, *self._threads]

    def stop(self, timeout_seconds: float) -> None:
        """Release the running jobs for other workers, and wait up to the timeout for all threads to end."""
        deadline = time.monotonic() + timeout_seconds
        self._is_stopped = True
        if not any(thread.is_alive() for thread in self._threads):
            return
        # Stop the consumers first: this process would otherwise fetch the jobs that it releases.
        for consumer in self._worker.consumers.values():
            consumer.stop()
        for worker in self._worker.workers:
            worker.stop()
        for handler in self._handlers:
            handler.stop()
        for background_worker in self._background_workers:
            background_worker.stop()
        self._worker.stop(timeout=int(timeout_seconds * 1000))  # without Redis, prefetched messages are delivered after a timeout
        for thread in self._threads:
            thread.join(timeout=max(0, deadline - time.monotonic()))
