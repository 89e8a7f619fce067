"""Loads what several greenlets wait for at the same time together: one query instead of one for each of them."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import gevent
from gevent.event import AsyncResult

from app.core.errors import Unavailable

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_BATCH = 100
SECONDS_PER_KEY, MAX_SECONDS = 0.01, 0.15  # of a batch before the next one may begin: a crowd is loaded in few batches
RELEASED_TOGETHER = 16  # callers that go on before other greenlets run: each of them may have a lot to do


class TooBusy(Unavailable):
    def __init__(self) -> None:
        super().__init__("This instance is too busy. Please try again in a moment.")


class BatchLoader(Generic[Key, Value]):
    """Loads one batch at a time. A key that finds no batch in progress is loaded at once, and does not delay the next one.

    Keys that arrive during a batch wait for the next one, so no value is older than the call that asked for it.
    """

    def __init__(self, load: Callable[[Sequence[Key]], Sequence[Value]], max_wait_seconds: float = math.inf) -> None:
        """`load` returns the values in the order of the keys, of which there are at most MAX_BATCH. See `refuse_if_busy`."""
        self._load = load
        self._max_wait_seconds = max_wait_seconds
        self._first: deque[_Call[Key, Value]] = deque()
        self._waiting: deque[_Call[Key, Value]] = deque()
        self._alone: deque[_Call[Key, Value]] = deque()  # to be loaded one by one: a batch with them failed
        self._is_loading = False

    def get(self, key: Key, *, first: bool = False) -> Value:
        """Return the value of the key. Raises what `load` raises for this key, and Unavailable.

        With `first`, the key goes before those without, however long it waits.
        """
        call: _Call[Key, Value] = _Call(key)
        (self._first if first else self._waiting).append(call)
        if not self._is_loading:
            self._is_loading = True
            gevent.spawn(self._run)
        value: Value = call.result.get()
        return value

    def refuse_if_busy(self) -> None:
        """Raise TooBusy if the next batch is full and the calls that wait for it have waited for `max_wait_seconds`."""
        if len(self._waiting) >= MAX_BATCH and time.monotonic() - self._waiting[0].began_at > self._max_wait_seconds:
            raise TooBusy

    def _run(self) -> None:
        try:
            while calls := self._next_batch():
                began = time.monotonic()
                self._answer(calls)
                pause = min(MAX_SECONDS, SECONDS_PER_KEY * (len(calls) - 1)) - (time.monotonic() - began)
                gevent.sleep(max(0.0, pause))
        finally:
            self._is_loading = False

    def _next_batch(self) -> list["_Call[Key, Value]"]:
        if self._alone:
            return [self._alone.popleft()]
        queues = [queue for queue in (self._first, self._waiting) for _ in queue]
        return [queue.popleft() for queue in queues[:MAX_BATCH]]

    def _answer(self, calls: Sequence["_Call[Key, Value]"]) -> None:
        try:
            values = self._load([call.key for call in calls])
        except Unavailable as error:
            for call in (*calls, *self._alone, *self._first, *self._waiting):  # each further batch would wait for another timeout
                call.result.set_exception(error)
            for queue in (self._alone, self._first, self._waiting):
                queue.clear()
        except Exception as error:
            if len(calls) == 1:
                calls[0].result.set_exception(error)
            else:
                self._alone.extend(calls)  # one of the keys may be the cause
        else:
            self._release(zip(calls, values, strict=True))

    def _release(self, answers: Iterable[tuple["_Call[Key, Value]", Value]]) -> None:
        for number, (call, value) in enumerate(answers, start=1):
            call.result.set(value)
            if number % RELEASED_TOGETHER == 0:
                gevent.sleep(0)


class _Call(Generic[Key, Value]):
    """A greenlet that waits for the value of a key."""

    __slots__ = ("began_at", "key", "result")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.began_at = time.monotonic()
        self.result = AsyncResult()
