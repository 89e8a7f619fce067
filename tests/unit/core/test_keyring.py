from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from app.core.keyring import Keyring, UnknownKey, key_id

NEW, OLD, FOREIGN = b"n" * 32, b"o" * 32, b"f" * 32


@pytest.fixture
def ring() -> Keyring:
    return Keyring("encryption", (NEW, OLD))


def test_key_id_does_not_reveal_the_key() -> None:
    name = key_id(NEW)
    assert len(name) == 16
    assert name == key_id(NEW) != key_id(OLD)
    assert name not in NEW.hex()


def test_newest_key_is_active_without_a_fleet(ring: Keyring) -> None:
    assert (ring.active_id, ring.active) == (key_id(NEW), NEW)
    assert ring.ids == [key_id(NEW), key_id(OLD)]
    assert ring.known_ids == {key_id(NEW), key_id(OLD)}


def test_all_keys_are_available_for_reading(ring: Keyring) -> None:
    assert ring[key_id(NEW)] == NEW
    assert ring[key_id(OLD)] == OLD
    assert dict(ring.items()) == {key_id(NEW): NEW, key_id(OLD): OLD}


def test_unknown_key_raises(ring: Keyring) -> None:
    with pytest.raises(UnknownKey, match=key_id(FOREIGN)):
        ring[key_id(FOREIGN)]


def test_fleet_determines_the_active_key(ring: Keyring) -> None:
    ring.apply_fleet_state(key_id(OLD), frozenset({key_id(OLD)}))
    assert ring.active == OLD
    assert ring.has_fleet_key
    assert ring.known_ids == {key_id(OLD)}


def test_active_key_is_kept_if_the_fleet_key_is_not_held(ring: Keyring) -> None:
    ring.apply_fleet_state(key_id(FOREIGN), frozenset({key_id(FOREIGN)}))
    assert ring.active == NEW
    assert not ring.has_fleet_key


def test_active_key_is_kept_while_the_fleet_is_undecided(ring: Keyring) -> None:
    ring.apply_fleet_state(None, frozenset(ring.ids))
    assert ring.active == NEW
    assert not ring.has_fleet_key


def test_active_key_is_exported_as_a_metric(ring: Keyring) -> None:
    ring.apply_fleet_state(key_id(OLD), frozenset(ring.ids))
    values = [
        REGISTRY.get_sample_value("reporadar_session_key_active", {"secret": "encryption", "key_id": held}) for held in ring.ids
    ]
    assert values == [0, 1]
