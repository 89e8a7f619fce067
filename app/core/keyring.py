"""Keyrings: several keys at once, so that secrets can be rotated while users stay signed in.

Every key of a keyring can decrypt or verify; only the active one encrypts or signs. The fleet determines the active key: the
newest one that every live instance holds (see `app.fleet.store`).
"""

import hashlib
from collections.abc import Iterator

from app.core import metrics


class UnknownKey(Exception):
    """A record or cookie names a key that this keyring does not hold."""


def key_id(key: bytes) -> str:
    """Return 16 hexadecimal characters that identify a key without revealing it."""
    return hashlib.sha256(b"reporadar key id\0" + key).hexdigest()[:16]


class Keyring:
    def __init__(self, name: str, keys: tuple[bytes, ...]) -> None:
        """`keys`: newest first."""
        self.name = name
        self._keys = {key_id(key): key for key in keys}
        self.active_id = self.ids[0]
        self.apply_fleet_state(self.active_id, frozenset(self.ids))

    @property
    def ids(self) -> list[str]:
        """The key IDs, newest first."""
        return list(self._keys)

    def apply_fleet_state(self, active_id: str | None, known_ids: frozenset[str]) -> None:
        """Set the active key (None: undecided) and the IDs of all keys that live instances hold.

        An instance that does not hold the fleet's active key keeps its own; it is not ready then and receives no traffic.
        """
        self.known_ids = known_ids
        self.has_fleet_key = active_id in self._keys
        if active_id in self._keys:
            self.active_id = active_id
        for held in self.ids:
            metrics.session_key_active.labels(self.name, held).set(held == self.active_id)

    @property
    def active(self) -> bytes:
        return self._keys[self.active_id]

    def __getitem__(self, wanted: str) -> bytes:
        try:
            return self._keys[wanted]
        except KeyError:
            raise UnknownKey(wanted) from None

    def items(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._keys.items())
