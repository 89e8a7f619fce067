"""The map of a Redis Cluster, without servers. `tests/cooperative/test_redis_cluster.py` has the clients on real ones."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis
from redis.exceptions import MovedError

from app.redis import cluster
from app.redis.cluster import SLOTS, NodeAddress, Topology
from harness.processes import wait_until

OLD, NEW = NodeAddress("127.0.0.1", 7001), NodeAddress("127.0.0.1", 7002)
SLOT = 5


class KnownTopology(Topology):
    """A topology whose nodes tell that OLD holds all slots, as soon as `is_answering` is set."""

    is_answering = threading.Event()
    is_answering.set()

    def _ask(self, address: NodeAddress) -> list[Any]:
        self.is_answering.wait()
        return [[0, SLOTS - 1, [OLD.host.encode(), OLD.port]]]


def topology(socket_timeout: float) -> KnownTopology:
    return KnownTopology([OLD], lambda address: redis.ConnectionPool(**address._asdict(), socket_timeout=socket_timeout))


def test_redirection_that_comes_too_late_is_remembered() -> None:
    known = topology(socket_timeout=0.0)
    asked = []

    def send(address: NodeAddress, asking: bool) -> str:
        asked.append(address)
        if address == OLD:
            raise MovedError(f"{SLOT} {NEW.host}:{NEW.port}")
        return "reply"

    with pytest.raises(MovedError):
        known.run(SLOT, send)
    assert known.run(SLOT, send) == "reply"
    assert asked == [OLD, NEW]


def test_nodes_that_redirect_to_each_other_are_an_error() -> None:
    def send(address: NodeAddress, asking: bool) -> str:
        other = NEW if address == OLD else OLD
        raise MovedError(f"{SLOT} {other.host}:{other.port}")

    with pytest.raises(MovedError):
        topology(socket_timeout=5.0).run(SLOT, send)


def test_callers_do_not_wait_long_for_another_one_that_reads_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REFRESH_SECONDS", 0.05)
    known = topology(socket_timeout=1.0)
    known.is_answering = threading.Event()
    reader = threading.Thread(target=known.masters)
    reader.start()
    wait_until(known._lock.locked, what="the map to be read")
    with pytest.raises(redis.TimeoutError):
        known.masters()
    known.is_answering.set()
    reader.join()
    assert known.masters() == [OLD]
