"""The fault: all fields of a session are saved even if it has been destroyed, as stock Flask-Session does."""

import threading
from collections.abc import Mapping

from app.redis.multiplexed import MultiplexedRedis
from app.sessions.redis_store import RedisSessionStore
from app.sessions.store import FieldChange, Fields
from tests.faults.held_requests import app, redis, settings


class UnguardedStore(RedisSessionStore):
    request = threading.local()  # gevent makes it local to the greenlet

    def load(self, key: str) -> Fields | None:
        self.request.fields = super().load(key) or {}
        return self.request.fields or None

    def merge(self, key: str, changes: Mapping[str, FieldChange], ttl: int | None, user_id: int | None = None) -> bool:
        fields = {**self.request.fields, **{name: change.value for name, change in changes.items()}}
        self._client.delete(key)
        self._client.hset(key, mapping={name: value for name, value in fields.items() if value is not None})
        return True


app.session_interface.records.store = UnguardedStore(redis, MultiplexedRedis(redis), settings.session_max_age)  # type: ignore[attr-defined]

__all__ = ["app"]
