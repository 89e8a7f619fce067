"""Redis Cluster: whether it serves all keys, and which nodes have failed. The masters are examined like single servers."""

from collections.abc import Iterator
from typing import Any

import redis

from app.operations.doctor.findings import Finding, describe_error, fail, ok, warn
from app.redis.cluster import SLOTS, ClusterClient

CHECK = "redis-cli --cluster check HOST:PORT"


def examine(client: ClusterClient) -> Iterator[Finding]:
    try:
        state: dict[str, str] = client.execute_command("CLUSTER INFO")
        nodes: dict[str, dict[str, Any]] = client.execute_command("CLUSTER NODES")
    except redis.RedisError as error:
        yield warn(f"cluster: it does not tell its state: {describe_error(error)}", "Allow the command CLUSTER to its user (ACL)")
        return
    yield _state(state)
    yield from _failed_nodes(nodes)
    yield from _coverage(client)


def _state(state: dict[str, str]) -> Finding:
    name, covered = state["cluster_state"], int(state["cluster_slots_ok"])
    text = f"cluster: its state is {name}, {covered} of {SLOTS} slots are served by {state['cluster_size']} masters"
    if name != "ok" or covered < SLOTS:
        return fail(text, f"Requests for the other keys are answered with 503: start what is down, or run {CHECK}")
    return ok(text)


def _failed_nodes(nodes: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    for address in sorted(address for address, node in nodes.items() if "fail" in node["flags"]):
        yield warn(f"cluster: {address} has failed", "Start it again, or remove it with CLUSTER FORGET")


def _coverage(client: ClusterClient) -> Iterator[Finding]:
    """Examine a setting that managed clusters may not show."""
    try:
        setting = client.execute_command("CONFIG GET", "cluster-require-full-coverage")
    except redis.RedisError:
        return
    if "yes" in setting.values():
        yield warn(
            "cluster: a failed master stops all others (cluster-require-full-coverage yes)",
            "Set cluster-require-full-coverage no: then only the users whose keys it holds wait for its replica",
        )
