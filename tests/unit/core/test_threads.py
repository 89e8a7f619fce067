from __future__ import annotations

import threading

import gevent
import pytest

from app.core import logs
from app.core.threads import NativeThreads


def test_result_of_another_thread_is_returned() -> None:
    assert NativeThreads(1).run(threading.get_native_id) != threading.get_native_id()


def test_arguments_are_passed_to_the_thread() -> None:
    assert NativeThreads(1).run(int, "11", base=2) == 3


def test_log_lines_of_the_thread_carry_the_ids_of_the_caller() -> None:
    token = logs.request_id.set("request-7")
    try:
        assert NativeThreads(1).run(logs.request_id.get) == "request-7"
    finally:
        logs.request_id.reset(token)


def test_exception_is_raised_in_the_caller_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    threads = NativeThreads(1)
    with pytest.raises(ValueError, match="invalid literal"):
        threads.run(int, "hunter2")
    assert capsys.readouterr() == ("", "")
    assert threads.run(int, "7") == 7


def test_single_thread_runs_sequentially_and_does_not_block_the_event_loop() -> None:
    threads, go, order = NativeThreads(1), threading.Event(), list[str]()

    def first() -> None:
        assert go.wait(10)
        order.append("first")

    jobs = [gevent.spawn(threads.run, first), gevent.spawn(threads.run, order.append, "second")]
    gevent.idle()
    order.append("loop")
    go.set()
    gevent.joinall(jobs, raise_error=True)
    assert order == ["loop", "first", "second"]
