"""Limits the processor time of a block. Regular expressions have no limit of their own, and their input is not trusted."""

import signal
import threading
from functools import cache
from types import FrameType


class TimeLimitExceeded(Exception):
    """The block took more processor time than it may."""


class CpuTimeLimit:
    """Raises TimeLimitExceeded in the block after so many seconds of processor time. Only the main thread can be interrupted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_possible = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._is_possible:
            _install_handler()
            signal.setitimer(signal.ITIMER_VIRTUAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._is_possible:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@cache
def _install_handler() -> None:
    signal.signal(signal.SIGVTALRM, _on_signal)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    raise TimeLimitExceeded
