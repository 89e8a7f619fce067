"""This instance's place in the fleet: its heartbeat, and the keys that follow from it."""

from __future__ import annotations

import logging
import time

import gevent

from app.errors import Unavailable
from app.fleet.store import Registry
from app.instance import Instance
from app.sessions.keyring import Keyring

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
RETRY_SECONDS = 0.2
UNREADY_AFTER_SECONDS = HEARTBEAT_SECONDS + 10.0  # ten seconds of failure, after a heartbeat that was answered


class Membership:
    """Keeps the entry of this instance alive, and its keyrings in step with the fleet."""

    def __init__(self, registry: Registry, instance: Instance, rings: list[Keyring]) -> None:
        self._registry = registry
        self._instance = instance
        self._rings = rings
        self._last_beat: float | None = None

    def run(self) -> None:
        """For ever, as a greenlet."""
        while True:
            gevent.sleep(HEARTBEAT_SECONDS if self.beat() else RETRY_SECONDS)

    def beat(self) -> bool:
        """Without an answer nothing changes: the instance goes on with the keys that it last knew."""
        try:
            self.refresh(self._registry)
        except Unavailable:
            return False
        return True

    def refresh(self, registry: Registry) -> None:
        """Renews the entry, and takes over what the fleet says of the keys. Raises Unavailable."""
        entry = {
            "nonce": self._instance.nonce,
            "keys": {ring.name: ring.ids for ring in self._rings},
            "writes_with": {ring.name: ring.active_id for ring in self._rings if self._follows(ring)},
        }
        states = registry.heartbeat(self._instance.instance_id, entry)
        for ring in self._rings:
            ring.follow(states[ring.name].active, states[ring.name].known)
        self._last_beat = time.monotonic()

    def _follows(self, ring: Keyring) -> bool:
        return self._last_beat is not None and ring.reads_what_the_fleet_writes

    def obstacle(self) -> str | None:
        """Why the instance should not be ready: it could not read what others write, or they do not know of it."""
        if self._last_beat is None:
            return "redis: the registry has not been reached yet"
        silence = time.monotonic() - self._last_beat
        if silence > UNREADY_AFTER_SECONDS:
            return f"redis: the registry has not been reached for {silence:.0f} s"
        missing = [ring.name for ring in self._rings if not ring.reads_what_the_fleet_writes]
        return f"holds no {' and no '.join(missing)} key that the fleet writes with" if missing else None

    def leave(self) -> None:
        try:
            self._registry.remove(self._instance.instance_id, self._instance.nonce)
        except Unavailable:
            log.warning("could not leave the registry; the entry will expire")
