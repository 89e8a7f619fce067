"""This instance's place in the fleet: its heartbeat, the keys that follow from it, and whether it fits in."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import gevent
from gevent.lock import Semaphore

from app.core import metrics
from app.core.errors import NotFound, Unavailable
from app.core.instance import Instance
from app.core.keyring import Keyring
from app.core.timestamps import iso
from app.fleet.consistency import ConfigMismatch, ConsistencyCheck, lasting_differences
from app.fleet.store import Registry
from app.fleet.vitals import Vitals
from app.server.lifecycle import STARTING, Lifecycle

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
RETRY_SECONDS = 0.2
UNREADY_AFTER_SECONDS = HEARTBEAT_SECONDS + 10.0  # ten seconds of failure, after a heartbeat that was answered


class FleetMembership:
    """Keeps the entry of this instance alive, and its keyrings in step with the fleet."""

    def __init__(
        self,
        registry: Registry,
        instance: Instance,
        rings: list[Keyring],
        lifecycle: Lifecycle,
        consistency: ConsistencyCheck,
        vitals: Vitals,
    ) -> None:
        self._registry = registry
        self._instance = instance
        self._rings = rings
        self._lifecycle = lifecycle
        self._consistency = consistency
        self._vitals = vitals
        self._last_beat: float | None = None
        self._speaking = Semaphore()
        self._has_left = False
        self._told_set_aside = False
        self._stops: dict[str, int] | None = None

    def run(self) -> None:
        """Until the instance leaves, as a greenlet."""
        while not self._has_left:
            heard = self.beat()
            if heard and self._lifecycle.drained != self._told_set_aside:
                continue  # the answer was an order, which has changed what is to be told
            gevent.sleep(HEARTBEAT_SECONDS if heard and self._lifecycle.phase != STARTING else RETRY_SECONDS)

    def beat(self) -> bool:
        """Without an answer nothing changes: the instance goes on with the keys that it last knew."""
        try:
            with self._speaking:
                self.refresh(self._registry)
        except Unavailable:
            return False
        return True

    def refresh(self, registry: Registry) -> None:
        """Renews the entry, and takes over what the fleet says of the keys. Raises Unavailable."""
        if self._has_left:
            return
        self._told_set_aside = self._lifecycle.drained
        entry = {
            "instance_id": self._instance.instance_id,
            "nonce": self._instance.nonce,
            "hostname": self._instance.hostname,
            "pid": self._instance.pid,
            "status": self._lifecycle.status,
            "is_stopping": self._lifecycle.is_stopping,
            "pool": self._consistency.pool_size,
            "keys": {ring.name: ring.ids for ring in self._rings},
            "writes_with": {ring.name: ring.active_id for ring in self._rings if self._follows(ring)},
        }
        answer = registry.heartbeat(entry, {**self._vitals.describe(), "disagreements": self._disagreements()})
        if self._has_left:  # while this was on its way
            registry.leave(self._instance.nonce, None)
            return
        for ring in self._rings:
            ring.follow(answer.rings[ring.name].active, answer.rings[ring.name].known)
        self._consistency.on_heartbeat(answer.peers, answer.duplicate)
        self._lifecycle.set_drained(answer.drained)
        self._count_stops(answer.stops)
        self._last_beat = time.monotonic()

    def _count_stops(self, stops: dict[str, int]) -> None:
        """Those that there have been since this instance began to listen; each instance counts the same ones."""
        for kind, count in stops.items():
            before = self._stops.get(kind, 0) if self._stops is not None else count
            metrics.stops.labels(kind).inc(max(0, count - before))
        self._stops = stops

    def _disagreements(self) -> list[dict[str, Any]]:
        """That this instance has with the others, by its own account."""
        found = [*self._missing_keys(), *self._consistency.disagreements()]
        return [disagreement.describe() for disagreement in found]

    def _missing_keys(self) -> list[ConfigMismatch]:
        missing = [ring.name for ring in self._rings if not ring.reads_what_the_fleet_writes]
        if self._last_beat is None or not missing:
            return []
        what = f"holds no {' and no '.join(missing)} key that the fleet writes with"
        return [ConfigMismatch("keys", [self._instance.instance_id], what)]

    def _follows(self, ring: Keyring) -> bool:
        return self._last_beat is not None and ring.reads_what_the_fleet_writes

    def not_ready_reason(self) -> str | None:
        """Why the instance should not be ready: it could not read what others write, or they do not know of it."""
        if self._last_beat is None:
            return "redis: the registry has not been reached yet"
        silence = time.monotonic() - self._last_beat
        if silence > UNREADY_AFTER_SECONDS:
            return f"redis: the registry has not been reached for {silence:.0f} s"
        if missing := self._missing_keys():
            return missing[0].message
        # Who is ready stays so, whoever comes.
        return self._consistency.not_ready_reason() if self._lifecycle.phase == STARTING else None

    def leave(self) -> None:
        """With the account of the stop that is under way, if there is one. Nothing is said after it."""
        report = self._lifecycle.report
        own = {"instance_id": self._instance.instance_id, "nonce": self._instance.nonce, "at": int(time.time() * 1000)}
        self._has_left = True
        with self._speaking:
            self._registry.leave(self._instance.nonce, {**own, **report.describe()} if report else None)


class Fleet(Protocol):
    """What administrators see and do. All of it raises Unavailable."""

    def overview(self) -> dict[str, Any]: ...

    def set_drained(self, instance_id: str, wanted: bool) -> None:
        """Raises NotFound."""


class SharedFleet:
    """Of the instances that the registry knows."""

    def __init__(self, registry: Registry, consistency: ConsistencyCheck) -> None:
        self._registry = registry
        self._consistency = consistency

    def overview(self) -> dict[str, Any]:
        instances = self._registry.instances()
        disagreements = [claim for about in instances for claim in about.pop("disagreements", [])]
        disagreements += [
            found.describe() for found in [*self._consistency.instances_on_other_redis(), *lasting_differences(instances)]
        ]
        advice = [row for about in instances for row in about.pop("advice", [])]
        stops = [{**stop, "at": iso(stop["at"] / 1000)} for stop in self._registry.stops()]
        return {"instances": instances, "advice": advice, "disagreements": disagreements, "stops": stops}

    def set_drained(self, instance_id: str, wanted: bool) -> None:
        nonces = [about["nonce"] for about in self._registry.instances() if about["instance_id"] == instance_id]
        if not nonces:
            raise NotFound(f"There is no instance {instance_id}.")
        for nonce in nonces:
            self._registry.set_drained(nonce, wanted)


class FleetOfOne:
    """An embedded instance."""

    def __init__(self, instance: Instance, lifecycle: Lifecycle, vitals: Vitals) -> None:
        self._instance = instance
        self._lifecycle = lifecycle
        self._vitals = vitals

    def overview(self) -> dict[str, Any]:
        about = {**self._vitals.describe(), "set_aside": self._lifecycle.drained}
        return {"advice": about.pop("advice"), "instances": [about], "disagreements": [], "stops": []}

    def set_drained(self, instance_id: str, wanted: bool) -> None:
        if instance_id != self._instance.instance_id:
            raise NotFound(f"There is no instance {instance_id}.")
        self._lifecycle.set_drained(wanted)
