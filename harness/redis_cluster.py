"""Redis Cluster for tests: real servers on free loopback ports.

with RedisCluster() as cluster, cluster.without(cluster.master_of("key")):
    cluster.wait_for_takeover("key")
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from harness.fleet import start_together
from harness.processes import PATIENCE_SECONDS, free_port, run, wait_until
from harness.servers import ROOT, RedisServer, ServerGroup, base_environment

SLOTS = 16_384


class ClusterNode(RedisServer):
    """One server of a cluster. It keeps its ID and its slots through restarts."""

    def __init__(self, password: str | None = None, node_timeout_ms: int = 2000) -> None:
        super().__init__(password)
        self.bus_port = free_port()
        self._node_timeout_ms = node_timeout_ms
        self._is_frozen = False

    @property
    def is_up(self) -> bool:
        """Whether the server was started and neither killed nor frozen since."""
        return self.status() is None and not self._is_frozen

    def start(self, wait_ready: bool = True) -> None:
        self._is_frozen = False
        super().start(wait_ready)

    def freeze(self) -> None:
        super().freeze()
        self._is_frozen = True

    def resume(self) -> None:
        super().resume()
        self._is_frozen = False

    @property
    def node_id(self) -> str:
        return str(self.call("CLUSTER MYID"))

    def call(self, *command: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    @property
    def is_in_sync(self) -> bool:
        """Whether the server finds the cluster complete and, if it is a replica, follows its master."""
        replication = self.call("INFO", "replication")
        is_following = replication["role"] == "master" or replication["master_link_status"] == "up"
        return is_following and bool(self.call("CLUSTER INFO")["cluster_state"] == "ok")

    def _command(self) -> list[str]:
        options = {
            "cluster-enabled": "yes",
            "cluster-port": str(self.bus_port),
            "cluster-node-timeout": str(self._node_timeout_ms),
            # As operators must set it: otherwise the loss of one master stops the others too.
            "cluster-require-full-coverage": "no",
            # Each master keeps its replica, so that tests know which takes over.
            "cluster-allow-replica-migration": "no",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",  # a replica counts after the first ping that it received
        }
        if self.password:
            options["masterauth"] = self.password
        return [*super()._command(), *(word for name, value in options.items() for word in (f"--{name}", value))]


class RedisCluster(ServerGroup):
    """Masters that share the slots in equal ranges, each with the same number of replicas."""

    def __init__(self, masters: int = 3, replicas: int = 1, *, password: str | None = None, node_timeout_ms: int = 2000) -> None:
        """`node_timeout_ms`: after this time without a sign of life a master counts as failed; a replica takes over 1 s later."""
        super().__init__()
        self.nodes = [ClusterNode(password, node_timeout_ms) for _ in range(masters * (1 + replicas))]
        self._masters = masters
        login = f":{password}@" if password else ""
        self.url = f"redis+cluster://{login}" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def _start(self) -> None:
        start_together(self._stack, self.nodes)
        self._form()

    def client(self) -> redis.RedisCluster:
        """Return redis-py's client for a `with` block. It does not retry, because a test wants to see the first failure."""
        node = next(node for node in self.nodes if node.is_up)
        return redis.RedisCluster(
            host="127.0.0.1",
            port=node.port,
            password=node.password,
            decode_responses=True,
            require_full_coverage=False,
            socket_timeout=20,
            retry=Retry(NoBackoff(), 0),
        )

    def masters(self) -> list[ClusterNode]:
        """Return the masters that a majority can see now, in the order of their slots."""
        return list(dict.fromkeys(master for _, _, master, _ in self._shards()))

    def master_of(self, key: str | int) -> ClusterNode:
        """Return the master of a key, or of a slot if `key` is a number."""
        return self._shard_of(key)[0]

    def replica_of(self, key: str | int) -> ClusterNode:
        """Return the first replica of a key or slot."""
        return self._shard_of(key)[1][0]

    def key_on(self, node: ClusterNode, prefix: str = "key") -> str:
        """Return a key that a master holds."""
        ranges = [(first, last) for first, last, master, _ in self._shards() if master is node]
        keys = (f"{prefix}-{number}" for number in itertools.count())
        return next(key for key in keys if any(first <= key_slot(key.encode()) <= last for first, last in ranges))

    def flush(self) -> None:
        for node in self.masters():
            node.flush()

    def command_counts(self) -> dict[int, Counter[str]]:
        """Return how many times each node executed each command so far, by the node's port; the names are as in `get`."""
        return {node.port: self._command_counts(node) for node in self.nodes if node.is_up}

    @contextmanager
    def without(self, node: ClusterNode, fault: str = "kill") -> Iterator[None]:
        """Kill or freeze a server during the block, as `Server.lost` does. Afterwards the cluster is whole again."""
        try:
            with node.lost(fault):
                yield
        finally:
            self.wait_until_whole()

    def wait_for_takeover(self, key: str | int, timeout: float = PATIENCE_SECONDS) -> ClusterNode:
        """Wait until another server than the killed or frozen one is the master of a key; return it."""
        return wait_until(lambda: self._takeover(key), timeout, "a replica to take over")

    def wait_until_whole(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until all servers see the same masters, and each replica follows its master."""
        wait_until(self._is_whole, timeout, "the cluster to be whole")

    def migrate_slot(self, slot: int, target: ClusterNode, halfway: Callable[[], object] = lambda: None) -> None:
        """Move a slot with its keys to another master. `halfway` runs while half of the keys have moved."""
        source = self.master_of(slot)
        target.call("CLUSTER SETSLOT", slot, "IMPORTING", source.node_id)
        source.call("CLUSTER SETSLOT", slot, "MIGRATING", target.node_id)
        self._move_keys(slot, source, target, max(1, source.call("CLUSTER COUNTKEYSINSLOT", slot) // 2))
        try:
            halfway()
        finally:
            while self._move_keys(slot, source, target, 100):
                pass
            for node in (target, source, *(node for node in self.masters() if node not in (target, source))):
                node.call("CLUSTER SETSLOT", slot, "NODE", target.node_id)

    def reshard(self, source: ClusterNode, target: ClusterNode, slots: int) -> None:
        """Move the first slots of a master to another one, as operators do."""
        login = ["-a", source.password] if source.password else []
        options = {"from": source.node_id, "to": target.node_id, "slots": str(slots)}
        words = [word for name, value in options.items() for word in (f"--cluster-{name}", value)]
        command = ["redis-cli", *login, "--cluster", "reshard", f"127.0.0.1:{source.port}", *words, "--cluster-yes"]
        self.wait_until_whole()  # redis-cli refuses a cluster whose servers disagree
        run(command, environment=base_environment(), directory=ROOT)

    def _move_keys(self, slot: int, source: ClusterNode, target: ClusterNode, count: int) -> int:
        keys = source.call("CLUSTER GETKEYSINSLOT", slot, count)
        if keys:
            login = ("AUTH", target.password) if target.password else ()
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, *login, "KEYS", *keys)
        return len(keys)

    def _form(self) -> None:
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for number, node in enumerate(masters):
            first, last = (SLOTS * part // self._masters for part in (number, number + 1))
            node.call("CLUSTER ADDSLOTSRANGE", first, last - 1)
            node.call("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node, other in itertools.combinations(self.nodes, 2):  # gossip alone takes seconds
            node.call("CLUSTER MEET", "127.0.0.1", other.port, other.bus_port)
        wait_until(self._have_met, what="all servers to know each other")
        for number, node in enumerate(replicas):
            master = masters[number % self._masters].node_id
            wait_until(lambda node=node, master=master: _replicate(node, master), what="a replica")  # type: ignore[misc]
        self.wait_until_whole()

    def _have_met(self) -> bool:
        return all(int(node.call("CLUSTER INFO")["cluster_known_nodes"]) == len(self.nodes) for node in self.nodes)

    def _is_whole(self) -> bool:
        views = [self._shards(node) for node in self.nodes]
        if any(view != views[0] for view in views):
            return False
        members = {node for _, _, master, replicas in views[0] for node in (master, *replicas)}
        return len(members) == len(self.nodes) and all(node.is_in_sync for node in self.nodes)

    def _takeover(self, key: str | int) -> ClusterNode | None:
        master = self.master_of(key)
        return master if master.is_up else None

    def _shard_of(self, key: str | int) -> tuple[ClusterNode, list[ClusterNode]]:
        slot = key if isinstance(key, int) else key_slot(key.encode())
        return next((master, replicas) for first, last, master, replicas in self._shards() if first <= slot <= last)

    def _shards(self, asked: ClusterNode | None = None) -> list[tuple[int, int, ClusterNode, list[ClusterNode]]]:
        """Return first slot, last slot, master and replicas of each range, as one server knows them."""
        asked = asked or next(node for node in self.nodes if node.is_up)
        nodes = {node.port: node for node in self.nodes}
        shards = []
        for first, last, *servers in sorted(asked.call("CLUSTER SLOTS")):
            master, *replicas = (nodes[server[1]] for server in servers)
            shards.append((first, last, master, sorted(replicas, key=lambda node: node.port)))
        return shards

    def _command_counts(self, node: ClusterNode) -> Counter[str]:
        with node.client() as client:
            stats = client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items()})


def _replicate(node: ClusterNode, master: str) -> bool:
    """Return False while the node has not yet heard of its master."""
    try:
        return bool(node.call("CLUSTER REPLICATE", master))
    except redis.ResponseError:
        return False
