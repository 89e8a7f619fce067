"""The numbers of gunicorn's workers, and the exit status of a worker and of the master."""

import logging
import mmap
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn


def lowest_free_number(workers: Iterable[Any]) -> int:
    """Return the number of a new worker. It takes over the number, and so the instance ID, of a worker that has ended."""
    taken = {worker.number for worker in workers}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def exit_process(status: int) -> NoReturn:
    """Exit without the interpreter's clean-up, which takes half a second or more. Everything has been closed before."""
    logging.shutdown()
    os._exit(status)


class WorkerExitStatus:
    """The master's record of whether its workers stopped cleanly, for its own exit status."""

    def __init__(self) -> None:
        self._all_clean = True

    @staticmethod
    def share_memory(worker: Any) -> None:
        """Called before the fork: the worker sets this byte when its stop was clean."""
        worker.clean_stop = mmap.mmap(-1, 1)

    def record(self, server: Any, worker: Any) -> None:
        """Called when a worker has ended. While the master goes on, another worker replaces it, and its status does not count."""
        is_stopping = not server.LISTENERS
        if is_stopping and not worker.clean_stop[0]:
            self._all_clean = False

    def exit_master(self, server: Any) -> NoReturn:
        """Called last in the master. A HaltServer exception of gunicorn has an exit status of its own."""
        halted = sys.exc_info()[1]
        exit_process(getattr(halted, "exit_status", 0) or int(bool(server.WORKERS) or not self._all_clean))
