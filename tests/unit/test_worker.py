from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import worker
from app.jobs.broker import JobQueues, local_broker
from app.jobs.pool import WorkerPool


class BackgroundWorker:
    def __init__(self) -> None:
        self.stop_event = threading.Event()

    def run(self) -> None:
        self.stop_event.wait()

    def stop(self) -> None:
        self.stop_event.set()


@pytest.fixture
def background_worker() -> BackgroundWorker:
    return BackgroundWorker()


@pytest.fixture
def pool(background_worker: BackgroundWorker, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    monkeypatch.setattr(worker, "WATCHDOG_SECONDS", 0.01)
    pool = WorkerPool(JobQueues(local_broker()).broker, [], [background_worker, BackgroundWorker()], size=1)
    pool.start()
    yield pool
    pool.stop(10)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_requested_stop_ends_the_wait_after_a_heartbeat(pool: WorkerPool, pipe: tuple[int, int], tmp_path: Path) -> None:
    reader, writer = pipe
    os.write(writer, bytes([signal.SIGTERM]))
    assert worker.wait_for_stop([pool], reader, tmp_path / "alive") == "SIGTERM"
    assert (tmp_path / "alive").exists()


def test_end_of_a_thread_ends_the_wait(
    pool: WorkerPool, pipe: tuple[int, int], background_worker: BackgroundWorker, caplog: pytest.LogCaptureFixture
) -> None:
    background_worker.stop()
    assert worker.wait_for_stop([pool], pipe[0], None) is None
    assert "a thread of this worker ended unexpectedly" in caplog.text
