from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from app.core.keyring import Keyring, key_id
from app.sessions.cipher import RecordCipher
from app.sessions.key_usage import KeyUsage
from app.sessions.store import SIGNED, SessionStore, record_key
from tests.unit.sessions.conftest import Backend

NEW, OLD, SIGNING = b"n" * 32, b"o" * 32, b"s" * 32


@pytest.fixture
def store(sqlite_backend: Backend) -> SessionStore:
    return sqlite_backend.store


def records(secret: str, key: bytes) -> float | None:
    return REGISTRY.get_sample_value("reporadar_session_records", {"secret": secret, "key_id": key_id(key)})


def create(store: SessionStore, name: str, secret: bytes) -> None:
    key = record_key(name)
    cipher = RecordCipher(Keyring("encryption", (secret,)), key)
    fields = {field: cipher.encrypt(field, b"value") for field in ("one", "two")}
    store.create(key, {**fields, SIGNED: key_id(SIGNING).encode()}, 100, None, None)


def test_each_record_is_counted_once_per_key(store: SessionStore) -> None:
    for name, secret in (("one", OLD), ("two", OLD), ("three", NEW)):
        create(store, name, secret)
    usage = KeyUsage(store, [Keyring("encryption", (NEW, OLD)), Keyring("signing", (SIGNING,))])
    usage.count()
    assert (records("encryption", NEW), records("encryption", OLD), records("signing", SIGNING)) == (1, 2, 3)


def test_unused_key_has_count_zero(store: SessionStore) -> None:
    usage = KeyUsage(store, [Keyring("encryption", (NEW, OLD))])
    create(store, "one", OLD)
    usage.count()
    assert records("encryption", OLD) == 1
    store.destroy(record_key("one"))
    usage.count()
    assert records("encryption", OLD) == 0


def test_records_are_not_counted_without_a_rotation(store: SessionStore) -> None:
    alone, rotating = Keyring("encryption", (NEW,)), Keyring("signing", (NEW, OLD))
    assert not KeyUsage(store, [alone]).is_needed
    assert KeyUsage(store, [alone, rotating]).is_needed
    KeyUsage(store, [alone]).run()  # returns
