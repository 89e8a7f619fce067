from __future__ import annotations

from typing import Any

import pytest

from app.operations.doctor.cluster import _failed_nodes, _state
from app.operations.doctor.replication import examine

REPLICA = {"state": "online", "lag": 0, "offset": 90}


def info(*replicas: dict[str, Any], **more: Any) -> dict[str, Any]:
    named = {f"slave{number}": replica for number, replica in enumerate(replicas)}
    return {"role": "master", "master_repl_offset": 100, "connected_slaves": len(replicas), **named, **more}


@pytest.mark.parametrize(
    ("reply", "statuses"),
    [
        (info(REPLICA, REPLICA, min_slaves_good_slaves=2), ["ok"]),
        (info(REPLICA, REPLICA), ["ok", "warn"]),
        (info(REPLICA, REPLICA, cluster_enabled=1), ["ok"]),
        (info(REPLICA), ["ok"]),
        (info(), ["warn"]),
        (info(REPLICA | {"lag": 11}), ["warn"]),
        (info(REPLICA | {"state": "wait_bgsave"}), ["warn"]),
        ({"role": "slave"}, ["fail"]),
    ],
)
def test_replicas_are_graded(reply: dict[str, Any], statuses: list[str]) -> None:
    assert [finding.status for finding in examine(reply)] == statuses


def test_delay_of_replicas_is_shown() -> None:
    (finding,) = examine(info(REPLICA, REPLICA | {"lag": 3, "offset": 40}, min_slaves_good_slaves=2))
    assert finding.text == "redis: 2 of 2 replicas are up to date, at most 3 s and 60 bytes behind"


@pytest.mark.parametrize(("state", "covered", "status"), [("ok", 16384, "ok"), ("ok", 16000, "fail"), ("fail", 16384, "fail")])
def test_cluster_must_serve_all_slots(state: str, covered: int, status: str) -> None:
    reply = {"cluster_state": state, "cluster_slots_ok": str(covered), "cluster_size": "3"}
    assert _state(reply).status == status


def test_failed_nodes_are_named() -> None:
    nodes = {"127.0.0.1:1": {"flags": "master"}, "127.0.0.1:2": {"flags": "slave,fail"}, "127.0.0.1:3": {"flags": "master,fail?"}}
    assert [finding.text for finding in _failed_nodes(nodes)] == [
        "cluster: 127.0.0.1:2 has failed",
        "cluster: 127.0.0.1:3 has failed",
    ]
