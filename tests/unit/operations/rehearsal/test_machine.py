"""The control measurement: the slowdown of a process that is not part of the fleet."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from app.operations.rehearsal import control_process
from app.operations.rehearsal.control_process import WORK_SECONDS
from app.operations.rehearsal.machine import MAX_SLOWDOWN, MachineLoad, slowdown


def test_slowdown_is_that_of_the_worst_five_seconds() -> None:
    quiet = [(number / 5, WORK_SECONDS) for number in range(50)]
    assert slowdown(quiet) == pytest.approx(1)
    disturbed = [(due, 3 * seconds if 5 <= due < 10 else seconds) for due, seconds in quiet]
    assert slowdown(disturbed) == pytest.approx(3)
    assert slowdown([]) == 1


def test_one_slow_piece_of_work_at_the_end_does_not_make_the_machine_busy() -> None:
    steady = [(number / 5, WORK_SECONDS) for number in range(25)]
    assert slowdown([*steady, (5.0, 10 * WORK_SECONDS)]) < MAX_SLOWDOWN
    assert slowdown([*steady, *((5 + number / 5, 10 * WORK_SECONDS) for number in range(20))]) > MAX_SLOWDOWN


@pytest.mark.parametrize(
    ("load", "expected"), [(MachineLoad(1, 2), False), (MachineLoad(1.1, 1), True), (MachineLoad(0, 2.1), True)]
)
def test_machine_is_too_busy_above_either_limit(load: MachineLoad, expected: bool) -> None:
    assert load.is_too_busy is expected


def test_control_process_shows_that_the_machine_is_busy() -> None:
    """Four programs compete with it for one processor, which leaves the others to the tests beside this one."""
    allowed = os.sched_getaffinity(0)
    with ExitStack() as stack:
        os.sched_setaffinity(0, {min(allowed)})  # the programs inherit it
        stack.callback(os.sched_setaffinity, 0, allowed)
        for _ in range(4):
            start(stack, "-c", "while True: pass")
        control = start(stack, control_process.__file__)
        assert control.stdout
        work = [(float(due), float(seconds)) for due, seconds in map(str.split, itertools.islice(control.stdout, 5))]
    assert work == sorted(work)
    assert slowdown(work) > MAX_SLOWDOWN


def start(stack: ExitStack, *arguments: str) -> subprocess.Popen[str]:
    process = stack.enter_context(subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    return process
