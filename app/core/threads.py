"""Work for native threads, beside the event loop: what would block it, and gives up the interpreter lock meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from gevent.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class NativeThreads:
    """So many threads of its own, and a queue; the caller waits, other greenlets go on."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPool(count)

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result, error = self._pool.apply(_outcome, (work, args, kwargs))
        if error is not None:
            raise error
        value: T = result
        return value


def _outcome(work: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    # An exception that left the thread would be printed by gevent, beside the log and with whatever it carries.
    try:
        return work(*args, **kwargs), None
    except Exception as error:
        return None, error
