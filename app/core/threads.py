"""Native threads, for work that would block the event loop and releases the GIL."""

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from gevent.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class NativeThreads:
    """A pool of `count` native threads. `run` blocks only the calling greenlet, whose context variables `work` sees."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPool(count)

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result, error = self._pool.apply(copy_context().run, (_run, work, args, kwargs))
        if error is not None:
            raise error
        value: T = result
        return value


def _run(work: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    # gevent would print an exception that leaves the thread to stderr, with all its contents.
    try:
        return work(*args, **kwargs), None
    except Exception as error:
        return None, error
