"""How a worker and the gunicorn master exit, and with which status."""

from __future__ import annotations

import logging
import mmap
import os
import sys
from typing import Any, NoReturn


def exit_process(status: int) -> NoReturn:
    """All is closed and written. The interpreter would take half a second, or more on a busy machine, to free each object."""
    logging.shutdown()
    os._exit(status)


class WorkerExitStatus:
    """What the master knows of its workers' ends, for its own exit status."""

    def __init__(self) -> None:
        self._all_clean = True

    @staticmethod
    def expect(worker: Any) -> None:
        """Before the fork: memory that both will see."""
        worker.clean_stop = mmap.mmap(-1, 1)

    def note(self, server: Any, worker: Any) -> None:
        """A worker that ends while the master goes on is followed by another one; that is no matter of the master's own stop."""
        is_stopping = not server.LISTENERS
        if is_stopping and not worker.clean_stop[0]:
            self._all_clean = False

    def leave(self, server: Any) -> NoReturn:
        """The last thing that the master does."""
        halted = sys.exc_info()[1]  # gunicorn stops by an exception; one that says why it had to has a status of its own
        exit_process(getattr(halted, "exit_status", 0) or int(bool(server.WORKERS) or not self._all_clean))
