from __future__ import annotations

from collections.abc import Sequence

import gevent
import pytest
from gevent.event import Event

from app.core import batch_loader
from app.core.batch_loader import BatchLoader, TooBusy
from app.core.errors import Unavailable
from harness.processes import PATIENCE_SECONDS


class Loads:
    """Records the batches, each of which waits until it may end. The value of a key is its double."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.may_end = Event()
        self.error: Exception | None = None
        if not held:
            self.may_end.set()

    def __call__(self, keys: Sequence[int]) -> list[int]:
        self.batches.append(list(keys))
        self.may_end.wait(5)
        if self.error:
            raise self.error
        return [10 // key for key in keys]


def start(loader: BatchLoader[int, int], *keys: int) -> list[gevent.Greenlet]:
    greenlets = [gevent.spawn(loader.get, key) for key in keys]
    gevent.sleep(0.01)
    return greenlets


def outcomes(greenlets: Sequence[gevent.Greenlet]) -> list[object]:
    gevent.joinall(greenlets, timeout=PATIENCE_SECONDS)
    return [type(one.exception) if one.exception else one.value for one in greenlets]


def test_key_that_waits_for_nothing_is_loaded_at_once() -> None:
    loads = Loads()
    assert BatchLoader(loads).get(5) == 2
    assert loads.batches == [[5]]


def test_keys_that_arrive_during_a_batch_form_the_next_one() -> None:
    loads = Loads(held=True)
    loader = BatchLoader(loads)
    first, later = start(loader, 1), start(loader, 2, 5, 2)
    assert loads.batches == [[1]]
    loads.may_end.set()
    assert outcomes([*first, *later]) == [10, 5, 2, 5]
    assert loads.batches == [[1], [2, 5, 2]]


def test_batches_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_loader, "MAX_BATCH", 2)
    loads = Loads()
    assert outcomes(start(BatchLoader(loads), 1, 2, 5)) == [10, 5, 2]
    assert loads.batches == [[1, 2], [5]]


def test_key_that_cannot_be_loaded_fails_alone() -> None:
    assert outcomes(start(BatchLoader(Loads()), 1, 0, 5)) == [10, ZeroDivisionError, 2]


def test_unavailable_store_fails_all_that_wait_at_once() -> None:
    loads = Loads(held=True)
    loader = BatchLoader(loads)
    waiting = start(loader, 1) + start(loader, 2, 5)
    loads.error = Unavailable("The database does not answer.")
    loads.may_end.set()
    assert outcomes(waiting) == [Unavailable] * 3
    assert loads.batches == [[1]]
    loads.error = None
    assert loader.get(5) == 2


def test_store_that_becomes_unavailable_after_a_failed_batch_fails_all_that_wait_at_once() -> None:
    loads: list[list[int]] = []

    def load(keys: Sequence[int]) -> list[int]:
        loads.append(list(keys))
        raise ValueError if len(keys) > 1 else Unavailable("The database does not answer.")

    loader = BatchLoader(load)
    assert outcomes(start(loader, 1, 2, 3)) == [Unavailable] * 3
    assert loads == [[1, 2, 3], [1]]


def test_first_keys_go_before_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_loader, "MAX_BATCH", 2)
    loads = Loads(held=True)
    loader = BatchLoader(loads)
    waiting = start(loader, 1, 2, 3, 4)
    waiting.append(gevent.spawn(loader.get, 5, first=True))
    gevent.sleep(0.01)
    loads.may_end.set()
    assert outcomes(waiting) == [10, 5, 3, 2, 2]
    assert loads.batches == [[1, 2], [5, 3], [4]]


def test_loader_is_busy_when_a_full_batch_has_waited_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_loader, "MAX_BATCH", 2)
    loads = Loads(held=True)
    loader = BatchLoader(loads, max_wait_seconds=0.05)
    waiting = start(loader, 1) + start(loader, 2)
    gevent.sleep(0.06)
    loader.refuse_if_busy()
    waiting += start(loader, 5)
    with pytest.raises(TooBusy):
        loader.refuse_if_busy()
    loads.may_end.set()
    assert outcomes(waiting) == [10, 5, 2]
    loader.refuse_if_busy()
