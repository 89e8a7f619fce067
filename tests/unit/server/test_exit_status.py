from __future__ import annotations

from dataclasses import dataclass

import pytest

from app.server.exit_status import lowest_free_number


@dataclass
class Worker:
    number: int


@pytest.mark.parametrize(
    ("taken", "next_number"),
    [([], 1), ([1], 2), ([1, 2], 3), ([2], 1), ([1, 3], 2), ([3, 1, 4], 2), ([2, 3], 1)],
)
def test_new_worker_gets_the_lowest_free_number(taken: list[int], next_number: int) -> None:
    assert lowest_free_number([Worker(number) for number in taken]) == next_number


def test_worker_that_replaces_another_gets_its_number() -> None:
    workers: list[Worker] = []
    for _ in range(3):
        workers.append(Worker(lowest_free_number(workers)))
    assert [worker.number for worker in workers] == [1, 2, 3]
    del workers[1]
    assert lowest_free_number(workers) == 2
