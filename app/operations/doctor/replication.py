"""Replication: whether a replica could take over from a primary, and what would be lost."""

from collections.abc import Iterator
from typing import Any

from app.operations.doctor.findings import Finding, fail, ok, warn

LAG_SECONDS = 10  # without a sign of life from a replica, which comes every second


def examine(info: dict[str, Any]) -> Iterator[Finding]:
    """Examine the replicas of a primary. `info`: its reply to INFO."""
    if info.get("role") == "slave":
        yield fail("redis is a read-only replica", "A failover may be under way: run the doctor again in a moment")
        return
    yield _replicas(info)
    # A master of a cluster that is cut off from the others stops by itself.
    if info["connected_slaves"] > 1 and not info.get("cluster_enabled") and "min_slaves_good_slaves" not in info:
        yield warn(
            "redis: when it is cut off from its replicas, it goes on accepting writes, which are lost after the failover",
            "Set min-replicas-to-write 1 and min-replicas-max-lag 10 on all servers",
        )


def _replicas(info: dict[str, Any]) -> Finding:
    replicas = [value for name, value in info.items() if name.removeprefix("slave").isdigit() and isinstance(value, dict)]
    if not replicas:
        return warn("redis: has no replica that could take over", "Add one: until then, its failure is an outage")
    ready = [replica for replica in replicas if replica["state"] == "online"]
    lag = max((replica["lag"] for replica in ready), default=0)
    behind = max((info["master_repl_offset"] - replica["offset"] for replica in ready), default=0)
    text = f"redis: {len(ready)} of {len(replicas)} replicas are up to date, at most {lag} s and {behind} bytes behind"
    if len(ready) < len(replicas) or lag > LAG_SECONDS:
        return warn(text, "What was not replicated is lost in a failover: check the replicas and the network to them")
    return ok(text)
