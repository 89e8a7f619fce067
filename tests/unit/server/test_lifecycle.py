from __future__ import annotations

import logging
from collections.abc import Iterator

import gevent
import gevent.event
import pytest
from prometheus_client import REGISTRY

from app.server.lifecycle import DRAINING, READY, STARTING, STOPPED, Lifecycle
from app.server.stop_report import FORCED


def test_an_instance_becomes_ready_when_nothing_stands_in_the_way_any_more() -> None:
    obstacles: list[str | None] = ["no schema"]
    lifecycle = Lifecycle()
    lifecycle.add("part", check=lambda: obstacles[0])
    assert (lifecycle.check_readiness(), lifecycle.phase) == (["no schema"], STARTING)
    obstacles[0] = None
    assert lifecycle.check_readiness() == []
    assert lifecycle.phase == READY


def test_all_obstacles_are_told() -> None:
    lifecycle = Lifecycle()
    for reason in ("no schema", None, "no key"):
        lifecycle.add("part", check=lambda reason=reason: reason)  # type: ignore[misc]
    assert lifecycle.check_readiness() == ["no schema", "no key"]


def test_a_ready_instance_can_lose_its_readiness_and_find_it_again() -> None:
    obstacles: list[str | None] = [None]
    lifecycle = Lifecycle()
    lifecycle.add("part", check=lambda: obstacles[0])
    assert lifecycle.check_readiness() == []
    obstacles[0] = "redis has failed for 11 s"
    assert lifecycle.check_readiness() != []
    assert lifecycle.phase == READY
    obstacles[0] = None
    assert lifecycle.check_readiness() == []


def test_an_instance_that_drains_is_not_ready_again() -> None:
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
    """The greenlets of the test, which end with it."""
    greenlets: list[gevent.Greenlet] = []
    spawn = gevent.spawn

    def note(*arguments: object) -> gevent.Greenlet:
        greenlets.append(spawn(*arguments))
        return greenlets[-1]

    monkeypatch.setattr("app.server.lifecycle.gevent.spawn", note)
    yield greenlets
    gevent.killall(greenlets)


def test_each_change_of_readiness_is_told_once(
    spawned: list[gevent.Greenlet], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.server.lifecycle.WATCH_SECONDS", 0)
    caplog.set_level(logging.INFO, "app.server.lifecycle")
    obstacles: list[str | None] = ["no schema"]
    lifecycle = Lifecycle()
    lifecycle.add("part", check=lambda: obstacles[0])
    lifecycle.start()
    for reason in ("no schema", None, "redis has failed for 11 s", "redis has failed for 12 s", "redis and more", None):
        obstacles[0] = reason
        for _ in range(10):
            gevent.sleep(0)
    assert [message for message in caplog.messages if "ready" in message] == [
        "not ready: no schema",
        "ready",
        "not ready: redis has failed for 11 s",
        "not ready: redis and more",
        "ready",
    ]


def test_nothing_runs_in_the_background_before_the_start(spawned: list[gevent.Greenlet]) -> None:
    runs: list[str] = []
    lifecycle = Lifecycle()
    lifecycle.add("part", background=lambda: runs.append("run"))
    gevent.idle()
    assert runs == []
    lifecycle.start()
    gevent.idle()
    assert runs == ["run"]


def test_background_work_that_failed_begins_again(
    spawned: list[gevent.Greenlet], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.server.lifecycle.RESTART_SECONDS", 0)
    done = gevent.event.Event()
    outcomes = iter([RuntimeError("the first time"), RuntimeError("the second time")])

    def work() -> None:
        for fault in outcomes:
            raise fault
        done.set()

    lifecycle = Lifecycle()
    lifecycle.add("part", background=work)
    lifecycle.start()
    assert done.wait(10)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["the first time", "the second time"]


def test_what_was_opened_is_closed_in_reverse_and_one_fault_does_not_keep_the_others_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[str] = []

    def fail() -> None:
        raise RuntimeError("can't be closed")

    lifecycle = Lifecycle()
    lifecycle.add("database", close=lambda: closed.append("database"))
    lifecycle.add("job broker", close=fail)
    lifecycle.add("registry", close=lambda: closed.append("registry"))
    report = lifecycle.drain()
    assert not lifecycle.stop(report, 1)
    assert closed == ["registry", "database"]
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert caplog.messages[-1].startswith("stopped: forced in 0.0")
    assert caplog.messages[-1].endswith("close in 0.00 s (could not close job broker)")


def test_a_part_that_hangs_does_not_hold_up_a_stop() -> None:
    lifecycle, closed = Lifecycle(), []
    lifecycle.add("database", close=lambda: closed.append("database"))
    lifecycle.add("redis", close=lambda: gevent.sleep(60))
    lifecycle.add("sockets", shed=lambda _: gevent.sleep(60))
    lifecycle.add("jobs", let_go=lambda _: 3)
    report = lifecycle.drain()
    lifecycle.let_go(report, 0.05)
    assert not lifecycle.stop(report, 0.05)
    assert closed == ["database"]
    assert [(phase["name"], phase["count"]) for phase in report.describe()["phases"]] == [
        ("sockets", None),
        ("jobs", 3),
        ("close", None),
    ]
    assert report.describe()["kind"] == FORCED
    assert "sockets in 0.05 s (TimeoutError: not done in time); jobs 3 in" in report.summary


def test_an_instance_can_be_set_aside_and_called_back(spawned: list[gevent.Greenlet]) -> None:
    lifecycle, shed = Lifecycle(), []
    lifecycle.add("sockets", shed=lambda seconds: shed.append(seconds))
    lifecycle.add("jobs", let_go=lambda _: pytest.fail("its jobs are no matter of the balancer"))
    assert lifecycle.check_readiness() == []
    for _ in range(2):
        lifecycle.put_aside(True)
        gevent.joinall(spawned)
        assert lifecycle.check_readiness() == ["drained by an administrator"]
        assert (lifecycle.phase, lifecycle.status, lifecycle.is_leaving, len(shed)) == (READY, DRAINING, True, 1)
    lifecycle.put_aside(False)
    assert lifecycle.check_readiness() == []
    assert (lifecycle.status, lifecycle.is_leaving) == (READY, False)


def test_an_instance_that_stops_takes_no_orders() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.put_aside(True)
    assert (lifecycle.set_aside, lifecycle.check_readiness()) == (False, [DRAINING])
