from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import gevent
import gevent.event
import pytest
from prometheus_client import REGISTRY

from app.server.lifecycle import DRAINING, READY, STARTING, STOPPED, Lifecycle
from app.server.stop_report import FORCED


def fail() -> None:
    raise RuntimeError("can't be closed")


def test_instance_becomes_ready_when_no_check_objects() -> None:
    reasons: list[str | None] = ["no schema"]
    lifecycle = Lifecycle()
    lifecycle.add("part", check=lambda: reasons[0])
    assert (lifecycle.check_readiness(), lifecycle.phase) == (["no schema"], STARTING)
    reasons[0] = None
    assert lifecycle.check_readiness() == []
    assert lifecycle.phase == READY


def test_all_reasons_for_not_being_ready_are_returned() -> None:
    lifecycle = Lifecycle()
    for reason in ("no schema", None, "no key"):
        lifecycle.add("part", check=lambda reason=reason: reason)  # type: ignore[misc]
    assert lifecycle.check_readiness() == ["no schema", "no key"]


def test_ready_instance_can_lose_and_regain_readiness() -> None:
    reasons: list[str | None] = [None]
    lifecycle = Lifecycle()
    lifecycle.add("part", check=lambda: reasons[0])
    assert lifecycle.check_readiness() == []
    reasons[0] = "redis has failed for 11 s"
    assert lifecycle.check_readiness() != []
    assert lifecycle.phase == READY
    reasons[0] = None
    assert lifecycle.check_readiness() == []


def test_draining_instance_does_not_become_ready_again() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.check_readiness() == []
    report = lifecycle.drain()
    assert REGISTRY.get_sample_value("reporadar_ready") == 0
    assert (lifecycle.check_readiness(), lifecycle.phase) == ([DRAINING], DRAINING)
    assert lifecycle.stop(report, 1)
    assert (lifecycle.check_readiness(), lifecycle.phase) == ([STOPPED], STOPPED)


def test_readiness_is_a_metric() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.check_readiness() == []
    assert REGISTRY.get_sample_value("reporadar_ready") == 1
    lifecycle.drain()
    assert lifecycle.check_readiness() != []
    assert REGISTRY.get_sample_value("reporadar_ready") == 0


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[gevent.Greenlet]]:
    """The greenlets that the test starts; they are killed at its end."""
    greenlets: list[gevent.Greenlet] = []
    spawn = gevent.spawn

    def record(*arguments: object) -> gevent.Greenlet:
        greenlets.append(spawn(*arguments))
        return greenlets[-1]

    monkeypatch.setattr("app.server.lifecycle.gevent.spawn", record)
    yield greenlets
    gevent.killall(greenlets)


def test_each_change_of_readiness_is_logged_once(
    spawned: list[gevent.Greenlet], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.server.lifecycle.WATCH_SECONDS", 0)
    caplog.set_level(logging.INFO, "app.server.lifecycle")
    reasons: list[str | None] = ["no schema"]
    lifecycle = Lifecycle()
    lifecycle.add("part", check=lambda: reasons[0])
    lifecycle.start()
    for reason in ("no schema", None, "redis has failed for 11 s", "redis has failed for 12 s", "redis and more", None):
        reasons[0] = reason
        for _ in range(10):
            gevent.sleep(0)
    assert [message for message in caplog.messages if "ready" in message] == [
        "not ready: no schema",
        "instance is ready",
        "not ready: redis has failed for 11 s",
        "not ready: redis and more",
        "instance is ready",
    ]


def test_background_tasks_do_not_run_before_the_start(spawned: list[gevent.Greenlet]) -> None:
    runs: list[str] = []
    lifecycle = Lifecycle()
    lifecycle.add("part", background=lambda: runs.append("run"))
    gevent.idle()
    assert runs == []
    lifecycle.start()
    gevent.idle()
    assert runs == ["run"]


def test_failed_background_task_is_restarted_and_named_in_the_log(
    spawned: list[gevent.Greenlet], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.server.lifecycle.RESTART_SECONDS", 0)
    done = gevent.event.Event()
    outcomes = iter([RuntimeError("the first time"), RuntimeError("the second time")])

    def work() -> None:
        for error in outcomes:
            raise error
        done.set()

    lifecycle = Lifecycle()
    lifecycle.add("vitals", background=work)
    lifecycle.start()
    assert done.wait(10)
    failures = [record for record in caplog.records if record.exc_info]
    assert [str(record.exc_info and record.exc_info[1]) for record in failures] == ["the first time", "the second time"]
    assert {record.getMessage() for record in failures} == {"background task vitals failed, restarting in 0 s"}


def test_parts_are_closed_in_reverse_order_and_one_failure_does_not_keep_the_others_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[str] = []
    lifecycle = Lifecycle()
    lifecycle.add("database", close=lambda: closed.append("database"))
    lifecycle.add("job broker", close=fail)
    lifecycle.add("registry", close=lambda: closed.append("registry"))
    report = lifecycle.drain()
    assert not lifecycle.stop(report, 1)
    assert closed == ["registry", "database"]
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert caplog.messages[-1].startswith("stopped: forced in ")
    assert re.search(r"close in \d\.\d\d s \(could not close job broker\)$", caplog.messages[-1])


def test_stop_is_recorded_after_every_part_was_closed() -> None:
    recorded: list[str] = []
    lifecycle = Lifecycle()
    lifecycle.add("registry", after_report=lambda: recorded.append(lifecycle.report.summary if lifecycle.report else ""))
    lifecycle.add("database", close=fail)
    assert not lifecycle.stop(lifecycle.drain(), 1)
    assert recorded[0].endswith("(could not close database)")


def test_stop_that_could_not_be_recorded_is_not_clean(caplog: pytest.LogCaptureFixture) -> None:
    lifecycle = Lifecycle()
    lifecycle.add("registry", after_report=fail)
    assert not lifecycle.stop(lifecycle.drain(), 1)
    assert caplog.messages[-1] == "could not close registry"


def test_part_that_hangs_does_not_delay_the_stop() -> None:
    lifecycle, closed = Lifecycle(), []
    lifecycle.add("database", close=lambda: closed.append("database"))
    lifecycle.add("redis", close=lambda: gevent.sleep(60))
    lifecycle.add("sockets", disconnect_clients=lambda _: gevent.sleep(60))
    lifecycle.add("jobs", on_stop_begin=lambda _: 3)
    report = lifecycle.drain()
    lifecycle.begin_stop(report, 0.05)
    assert not lifecycle.stop(report, 0.05)
    assert closed == ["database"]
    assert [(phase["name"], phase["count"]) for phase in report.describe()["phases"]] == [
        ("sockets", None),
        ("jobs", 3),
        ("close", None),
    ]
    assert report.describe()["kind"] == FORCED
    assert re.search(r"sockets in \d\.\d\d s \(TimeoutError: not done in time\); jobs 3 in", report.summary)


def test_administrator_drains_an_instance_and_undoes_it(spawned: list[gevent.Greenlet]) -> None:
    lifecycle, timeouts = Lifecycle(), []
    lifecycle.add("sockets", disconnect_clients=lambda seconds: timeouts.append(seconds))
    lifecycle.add("jobs", on_stop_begin=lambda _: pytest.fail("jobs go on when clients are disconnected"))
    assert lifecycle.check_readiness() == []
    for _ in range(2):
        lifecycle.set_drained(True)
        gevent.joinall(spawned)
        assert lifecycle.check_readiness() == ["drained by an administrator"]
        assert (lifecycle.phase, lifecycle.status, lifecycle.is_draining, len(timeouts)) == (READY, DRAINING, True, 1)
    lifecycle.set_drained(False)
    assert lifecycle.check_readiness() == []
    assert (lifecycle.status, lifecycle.is_draining) == (READY, False)


def test_stopping_instance_ignores_an_administrators_drain() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.set_drained(True)
    assert (lifecycle.drained, lifecycle.check_readiness()) == (False, [DRAINING])
