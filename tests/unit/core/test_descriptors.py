from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator

import pytest

from app.core import descriptors, logs
from app.core.descriptors import EPISODE_SECONDS, DescriptorShortage

NONE_LEFT = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def fail_to_duplicate(_: int) -> int:
    raise NONE_LEFT


@pytest.fixture
def shortage(monkeypatch: pytest.MonkeyPatch) -> DescriptorShortage:
    shortage = DescriptorShortage()
    monkeypatch.setattr(descriptors, "shortage", shortage)
    return shortage


@pytest.fixture
def restored_log() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before
    logging.captureWarnings(False)


@pytest.fixture
def lines(restored_log: None, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """A function that returns the lines that were written to the log since the last call. The first call begins."""

    def read() -> list[str]:
        logs.configure("text", "INFO")
        return capsys.readouterr().err.splitlines()

    return read


def test_each_shortage_is_logged_once(
    shortage: DescriptorShortage, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    lines()
    now = 1000.0
    monkeypatch.setattr("app.core.descriptors.time.monotonic", lambda: now)
    for _ in range(20):
        shortage.record(NONE_LEFT)
        now += EPISODE_SECONDS / 2
    assert shortage.is_current
    (line,) = lines()
    assert "no file descriptors left: Too many open files (limit of this process: " in line
    now += EPISODE_SECONDS
    assert not shortage.is_current
    shortage.record(NONE_LEFT)
    assert len(lines()) == 1


def test_look_notices_that_no_descriptor_is_left(shortage: DescriptorShortage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not shortage.look()
    monkeypatch.setattr(os, "dup", fail_to_duplicate)
    assert shortage.look()


def log_consequences() -> None:
    logging.getLogger("app.health").warning("redis does not answer: ConnectionError: Error 24 connecting. Too many open files.")
    try:
        raise NONE_LEFT
    except OSError:
        logging.getLogger("app.server").exception("background task load failed")


def test_errors_that_follow_from_a_shortage_are_not_logged(
    shortage: DescriptorShortage, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(os, "dup", fail_to_duplicate)
    lines()
    log_consequences()
    logging.getLogger("app.part").warning("something else")
    first, second = lines()
    assert "no file descriptors left" in first
    assert "something else" in second


def test_a_message_with_wrong_values_does_not_fail_the_code_that_logs(lines: Callable[[], list[str]]) -> None:
    lines()
    logging.getLogger("app.part").warning("%d files", "no")
    assert "Message: '%d files'" in lines()


def test_a_text_alone_hides_no_line(shortage: DescriptorShortage, lines: Callable[[], list[str]]) -> None:
    lines()
    logging.getLogger("app.part").warning("failed: GET /Too many open files")
    assert len(lines()) == 1
