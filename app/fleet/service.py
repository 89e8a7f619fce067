"""This instance's place in the fleet: its heartbeat, and the keys that follow from it."""

from __future__ import annotations

import contextlib
import logging

import gevent

from app.errors import Unavailable
from app.fleet.store import Registry
from app.instance import Instance
from app.sessions.keyring import Keyring

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0


class Membership:
    """Keeps the entry of this instance alive, and its keyrings in step with the fleet."""

    def __init__(self, registry: Registry, instance: Instance, rings: list[Keyring]) -> None:
        self._registry = registry
        self._instance = instance
        self._rings = rings
        self.fault: str | None = "has not reached the registry yet"

    def run(self) -> None:
        """For ever, as a greenlet."""
        while True:
            self.beat()
            gevent.sleep(HEARTBEAT_SECONDS)

    def beat(self) -> None:
        """Without an answer nothing changes: the instance goes on with the keys that it last knew."""
        with contextlib.suppress(Unavailable):
            self.refresh()

    def refresh(self) -> None:
        """Renews the entry, and takes over what the fleet says of the keys. Raises Unavailable."""
        entry = {"nonce": self._instance.nonce, "keys": {ring.name: ring.ids for ring in self._rings}}
        states = self._registry.heartbeat(self._instance.instance_id, entry)
        for ring in self._rings:
            ring.follow(states[ring.name].active, states[ring.name].known)
        self._note_fault([ring.name for ring in self._rings if not ring.reads_what_the_fleet_writes])

    def leave(self) -> None:
        try:
            self._registry.remove(self._instance.instance_id, self._instance.nonce)
        except Unavailable:
            log.warning("could not leave the registry; the entry will expire")

    def _note_fault(self, rings: list[str]) -> None:
        fault = f"holds no {' and no '.join(rings)} key that the fleet writes with" if rings else None
        if fault and fault != self.fault:
            log.error("not ready: this instance %s", fault)
        self.fault = fault
