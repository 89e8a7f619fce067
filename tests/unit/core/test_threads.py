from __future__ import annotations

import threading

import gevent
import pytest

from app.core.threads import NativeThreads


def test_work_is_done_on_another_thread_and_its_result_comes_back() -> None:
    assert NativeThreads(1).run(threading.get_native_id) != threading.get_native_id()


def test_arguments_are_handed_on() -> None:
    assert NativeThreads(1).run(int, "11", base=2) == 3


def test_an_exception_comes_back_and_is_printed_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    threads = NativeThreads(1)
    with pytest.raises(ValueError, match="invalid literal"):
        threads.run(int, "hunter2")
    assert capsys.readouterr() == ("", "")
    assert threads.run(int, "7") == 7


def test_one_thread_does_one_thing_at_a_time_and_the_event_loop_goes_on() -> None:
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
