"""The membership of this instance in the fleet: heartbeat, keyrings and readiness; and the view of the whole fleet."""

import logging
import time
from typing import Any, Protocol

import gevent
from gevent.lock import Semaphore

from app.core import metrics
from app.core.errors import NotFound, Unavailable
from app.core.instance import Instance
from app.core.keyring import Keyring
from app.core.tasks import InstanceTask
from app.core.timestamps import iso
from app.fleet.consistency import ConfigMismatch, ConsistencyCheck, settings_mismatches
from app.fleet.store import FleetTotals, Registry
from app.fleet.vitals import Vitals
from app.fleet.worker_store import WorkerRegistry
from app.server.lifecycle import READY, STARTING, Lifecycle

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
RETRY_SECONDS = 0.2
OUTDATED_AFTER_SECONDS = 3.0  # since the last answered heartbeat: the sockets of the fleet may be others by now
UNREADY_AFTER_SECONDS = HEARTBEAT_SECONDS + 10.0  # since the last answered heartbeat: Redis may fail for 10 s

INSTANCE, WORKER = "instance", "worker"  # what a stop is of

_KEY_SETTINGS = {"encryption": "SESSION_ENCRYPTION_KEY", "signing": "SESSION_SECRET"}


class FleetMembership:
    """Renews the registry entry of this instance and keeps its keyrings in step with the fleet."""

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
        self._totals: FleetTotals | None = None
        self._sending = Semaphore()
        self._has_left = False
        self._reported_drained = False
        self._stops: dict[str, int] | None = None
        self._task = InstanceTask("registry", HEARTBEAT_SECONDS)

    def run(self) -> None:
        while not self._has_left:
            answered = self.beat()
            if answered and self._lifecycle.drained != self._reported_drained:
                continue  # the reply drained this instance or ended its drain: report the new status at once
            gevent.sleep(HEARTBEAT_SECONDS if answered and self._lifecycle.phase != STARTING else RETRY_SECONDS)

    def beat(self) -> bool:
        """Send a heartbeat and return whether it was answered. Without an answer the instance keeps its last known keys."""
        try:
            with self._sending:
                self.refresh(self._registry)
        except Unavailable as error:
            self._task.fail(error)
            return False
        self._task.succeed()
        return True

    def refresh(self, registry: Registry) -> None:
        """Renew the entry and take over the keys, the totals and the drain from the reply. Raises Unavailable."""
        if self._has_left:
            return
        self._reported_drained = self._lifecycle.drained
        about = {**self._vitals.describe(), "disagreements": self._disagreements()}
        entry = {
            "instance_id": self._instance.instance_id,
            "nonce": self._instance.nonce,
            "hostname": self._instance.hostname,
            "pid": self._instance.pid,
            "status": self._lifecycle.status,
            "is_stopping": self._lifecycle.is_stopping,
            "pool": self._consistency.pool_size,
            "sockets": about["sockets"],
            "keys": {ring.name: ring.ids for ring in self._rings},
            "writes_with": {ring.name: ring.active_id for ring in self._rings if self._is_in_step(ring)},
        }
        reply = registry.heartbeat(entry, about)
        if self._has_left:  # meanwhile: the heartbeat has recreated the entry
            registry.leave(self._instance.nonce, None)
            return
        for ring in self._rings:
            ring.apply_fleet_state(reply.rings[ring.name].active, reply.rings[ring.name].known)
        self._consistency.on_heartbeat(reply.totals, reply.duplicate)
        self._totals = reply.totals
        self._lifecycle.set_drained(reply.drained)
        self._count_stops(reply.stops)
        self._last_beat = time.monotonic()

    def totals(self) -> FleetTotals | None:
        """Return the totals of the fleet, or None if they are outdated or this instance is not ready and so not among them."""
        is_outdated = self._last_beat is None or time.monotonic() - self._last_beat > OUTDATED_AFTER_SECONDS
        return None if is_outdated or self._lifecycle.status != READY else self._totals

    def not_ready_reason(self) -> str | None:
        if self._last_beat is None:
            return "this instance has not reached the registry in Redis yet: check that Redis accepts writes"
        silence = time.monotonic() - self._last_beat
        if silence > UNREADY_AFTER_SECONDS:
            return f"this instance has not reached the registry in Redis for {silence:.0f} s: check that Redis accepts writes"
        if missing := self._missing_keys():
            return missing[0].message
        # An instance that is ready stays so, even if a newcomer does not fit.
        return self._consistency.not_ready_reason() if self._lifecycle.phase == STARTING else None

    def leave(self) -> None:
        """Remove the entry, record the stop report if there is one, and send no heartbeat any more. Raises Unavailable."""
        report = self._lifecycle.report
        own = {"instance_id": self._instance.instance_id, "nonce": self._instance.nonce, "at": int(time.time() * 1000)}
        self._has_left = True
        with self._sending:
            self._registry.leave(self._instance.nonce, {**own, **report.describe()} if report else None)

    def _is_in_step(self, ring: Keyring) -> bool:
        return self._last_beat is not None and ring.has_fleet_key

    def _missing_keys(self) -> list[ConfigMismatch]:
        missing = [ring.name for ring in self._rings if not ring.has_fleet_key]
        if self._last_beat is None or not missing:
            return []
        settings = " and ".join(_KEY_SETTINGS[name] for name in missing)
        message = f"this instance has no {' and no '.join(missing)} key that the fleet writes with: compare {settings}"
        return [ConfigMismatch("keys", [self._instance.instance_id], message)]

    def _disagreements(self) -> list[dict[str, Any]]:
        return [mismatch.describe() for mismatch in [*self._missing_keys(), *self._consistency.mismatches()]]

    def _count_stops(self, stops: dict[str, int]) -> None:
        """Add the stops since the previous heartbeat to the metric. Every instance counts the same stops."""
        for kind, count in stops.items():
            before = self._stops.get(kind, 0) if self._stops is not None else count
            metrics.stops.labels(kind).inc(max(0, count - before))
        self._stops = stops


class Fleet(Protocol):
    """The administrators' view of all instances. Every method raises Unavailable if a store does."""

    def overview(self) -> dict[str, Any]: ...

    def set_drained(self, instance_id: str, drained: bool) -> None:
        """Drain an instance or end its drain. Raises NotFound."""


class SharedFleet:
    """The instances and the workers in their registries."""

    def __init__(self, registry: Registry, workers: WorkerRegistry, consistency: ConsistencyCheck) -> None:
        self._registry = registry
        self._workers = workers
        self._consistency = consistency

    def overview(self) -> dict[str, Any]:
        instances = self._registry.instances()
        registered = {about["nonce"] for about in instances}
        found = [*self._consistency.instances_on_other_redis(registered), *settings_mismatches(instances)]
        disagreements = [reported for about in instances for reported in about.pop("disagreements", [])]
        disagreements += [mismatch.describe() for mismatch in found]
        advice = [row for about in instances for row in about.pop("advice", [])]
        workers = [{**about, "last_heartbeat": iso(about["last_heartbeat"])} for about in self._workers.workers()]
        return {
            "instances": instances,
            "workers": workers,
            "advice": advice,
            "disagreements": disagreements,
            "stops": self._stops(),
        }

    def _stops(self) -> list[dict[str, Any]]:
        """Return the last stops of instances and workers, newest first."""
        stops = [{**stop, "role": INSTANCE} for stop in self._registry.stops()]
        stops += [{**stop, "role": WORKER} for stop in self._workers.stops()]
        stops.sort(key=lambda stop: -stop["at"])
        return [{**stop, "at": iso(stop["at"] / 1000)} for stop in stops]

    def set_drained(self, instance_id: str, drained: bool) -> None:
        nonces = [about["nonce"] for about in self._registry.instances() if about["instance_id"] == instance_id]
        if not nonces:
            raise NotFound(f"There is no instance {instance_id}.")
        for nonce in nonces:
            self._registry.set_drained(nonce, drained)


class FleetOfOne:
    """The only instance, in embedded mode."""

    def __init__(self, instance: Instance, lifecycle: Lifecycle, vitals: Vitals) -> None:
        self._instance = instance
        self._lifecycle = lifecycle
        self._vitals = vitals

    def overview(self) -> dict[str, Any]:
        about = {**self._vitals.describe(), "set_aside": self._lifecycle.drained}
        return {"advice": about.pop("advice"), "instances": [about], "workers": [], "disagreements": [], "stops": []}

    def set_drained(self, instance_id: str, drained: bool) -> None:
        if instance_id != self._instance.instance_id:
            raise NotFound(f"There is no instance {instance_id}.")
        self._lifecycle.set_drained(drained)
