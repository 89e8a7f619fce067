"""Several keys at once, so that secrets can be rotated while users stay signed in.

All keys of a ring can read; one of them, the active one, writes. Which one that is follows from the fleet: the newest key that
every live instance holds (`app.fleet.store`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from app.core import metrics


class UnknownKey(Exception):
    """Something names a key that this ring does not hold."""


def key_id(key: bytes) -> str:
    """16 hexadecimal characters that name a key without telling it."""
    return hashlib.sha256(b"reporadar key id\0" + key).hexdigest()[:16]


class Keyring:
    def __init__(self, name: str, keys: tuple[bytes, ...]) -> None:
        self.name = name
        self._keys = {key_id(key): key for key in keys}
        self.active_id = self.ids[0]
        self.follow(self.active_id, frozenset(self.ids))

    @property
    def ids(self) -> list[str]:
        """Newest first."""
        return list(self._keys)

    def follow(self, active_id: str | None, known_ids: frozenset[str]) -> None:
        """What the fleet says: the key to write with (None: undecided), and the ids of all keys that live instances hold.

        An instance that does not hold the fleet's key goes on with what it has; it is not ready, so nobody should notice.
        """
        self.known_ids = known_ids
        self.reads_what_the_fleet_writes = active_id in self._keys
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
