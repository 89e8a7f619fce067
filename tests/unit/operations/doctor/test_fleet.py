from __future__ import annotations

from app.operations.doctor import fleet

INSTANCE = {
    "instance_id": "instance-1",
    "status": "ready",
    "uptime": 90,
    "version": "1.0",
    "obstacles": [],
}
STOP = {
    "instance_id": "instance-2",
    "nonce": "ab",
    "kind": "clean",
    "at": "2026-11-25T23:00:00.000Z",
    "seconds": 7.31,
    "summary": "",
    "phases": [
        {"name": "delay", "seconds": 5.0, "count": None},
        {"name": "sockets", "seconds": 1.2, "count": 120},
        {"name": "requests", "seconds": 0.0, "count": 0},
    ],
}


def examined(**report: object) -> list[str]:
    return [str(finding) for finding in fleet.examine({"instances": [INSTANCE], **report})][1:]


def test_instances_are_graded_by_status() -> None:
    starting = {**INSTANCE, "status": "starting", "obstacles": ["this instance has no signing key"]}
    found = fleet.examine(
        {"instances": [INSTANCE, {**INSTANCE, "status": "draining"}, {**starting, "uptime": 3}, {**starting, "uptime": 99}]}
    )
    assert [finding.status for finding in found] == ["ok", "warn", "warn", "fail"]
    assert [finding.status for finding in fleet.examine({"instances": []})] == ["warn"]
    assert fleet.live_ids({"instances": [INSTANCE]}) == ["instance-1"]


def test_mismatch_fails_and_advice_warns() -> None:
    assert examined(disagreements=[{"kind": "twin", "instance_ids": ["a", "b"], "message": "two call themselves a"}]) == [
        "fail fleet: a, b: two call themselves a\n       Compare the settings of a, b with those of the others"
    ]
    advice = {
        "instance_id": "a",
        "metric": "cpu_percent",
        "value": 81.5,
        "threshold": 70,
        "action": "Add instance",
        "cause": "busy",
    }
    assert examined(advice=[advice]) == ["warn fleet: a: cpu_percent is 81.5, above 70: busy\n       Add instance"]


def test_last_stops_name_their_longest_phase() -> None:
    forced = {
        **STOP,
        "kind": "forced",
        "seconds": 28.0,
        "phases": [*STOP["phases"], {"name": "requests", "seconds": 20.0, "count": 1}],  # type: ignore[misc]
    }
    crashed = {**STOP, "kind": "crashed", "seconds": None, "phases": []}
    clean, of_forced, of_crashed = examined(stops=[STOP, forced, crashed])
    assert clean.startswith(
        "ok   stops: the stop of instance-2 was clean and took 7.31 s at 2026-11-25T23:00:00.000Z;"
        " the longest phase was delay, 5.00 s"
    )
    assert "was forced and took 28.00 s" in of_forced
    assert "the longest phase was requests, 20.00 s\n       Some requests take long" in of_forced
    assert of_crashed.startswith("warn stops: instance-2 crashed")
    assert len(examined(stops=[STOP] * 9)) == fleet.LAST_STOPS
