"""Session records in Redis: one hash per session with a time to live, and one sorted set per user with the keys by age.

Every change is one Lua call and therefore atomic across instances: a destroyed record is never restored, and requests that write
different fields do not overwrite each other.

On a Redis Cluster all keys of a user share a hash tag, `{user:<id>}`, so the call finds them on one node. Only the record that a
sign-in replaces may be elsewhere; it is destroyed after the new one was stored. Records and lists of sessions that were copied
from a single server, or back to one, keep their names, are read under them, and are gone after the maximum life of a session.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import redis

from app.core.errors import Unavailable
from app.redis.client import PooledRedis, RedisCommands, available, is_cluster
from app.redis.cluster import slot_of_key
from app.redis.scripts import load_script
from app.sessions.cipher import CorruptRecord
from app.sessions.cookie import new_session_id
from app.sessions.store import KEY_PREFIX, MAX_SESSIONS_PER_USER, FieldChange, Fields, Owner, key_ids

_SCAN_BATCH = 500


class RedisSessionStore:
    def __init__(self, client: redis.Redis, commands: RedisCommands, max_age: int) -> None:
        """`max_age`: maximum life of a session in seconds; the index of a user's sessions has to live as long."""
        self._client = client
        self._commands = commands
        self._pooled = PooledRedis(client)
        self._max_age = max_age
        self._is_cluster = is_cluster(client)
        self._create = client.register_script(load_script(__file__, "create_session"))
        self._merge = client.register_script(load_script(__file__, "merge_session"))
        self._destroy_all = client.register_script(load_script(__file__, "destroy_user_sessions"))

    def new_id(self, owner: Owner | None) -> str:
        return new_session_id(owner.user_id if owner and self._is_cluster else None)

    def load(self, key: str) -> Fields | None:
        with available():
            fields = _load(self._commands, key)
            if not fields and (fields := _load(self._pooled, key)):  # the empty reply belonged to another command
                self._commands.drop()
        return fields or None

    def load_again(self, key: str) -> Fields | None:
        self._commands.drop()
        self._pooled.drop()
        with available():
            return _load(self._pooled, key) or None

    def create(self, key: str, fields: Fields, ttl: int, owner: Owner | None, replaces: str | None) -> bool:
        keys = [key]
        if owner:
            keys += self._owner_keys(owner.user_id)
        if owner and replaces and self._are_together(key, replaces):
            keys, replaces = [*keys, replaces], None
        version = owner.password_version if owner else ""
        arguments = [ttl, self._max_age, version, MAX_SESSIONS_PER_USER, *(part for pair in fields.items() for part in pair)]
        with available():
            is_created = bool(self._pooled.run_script(int, self._create, keys, arguments))
        if is_created and replaces:
            self._destroy_replaced(replaces, key)
        return is_created

    def merge(self, key: str, changes: Mapping[str, FieldChange], ttl: int | None, user_id: int | None = None) -> bool:
        index = None if user_id is None else _user_key(user_id, "sessions", is_tagged=_is_tagged(key))
        is_index_elsewhere = index is not None and not self._are_together(key, index)
        keys = [key] if index is None or is_index_elsewhere else [key, index]
        arguments: list[Any] = ["" if ttl is None else ttl, self._max_age]
        for name, change in changes.items():
            arguments += [name, *_optional(change.expected), *_optional(change.value)]
        with available():
            exists = bool(self._commands.run_script(int, self._merge, keys, arguments))
        if exists and is_index_elsewhere:
            with suppress(redis.RedisError):  # the changes are stored, and the next renewal extends the index
                self._commands.execute("EXPIRE", index, self._max_age, "GT")
        return exists

    def destroy(self, key: str) -> None:
        with available():
            self._commands.checked(int, self._commands.execute("DEL", key))

    def existing(self, keys: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with available():
            for batch in _batches(keys):
                replies = self._pooled.execute_each(*[("EXISTS", key) for key in batch])
                errors = [reply for reply in replies if isinstance(reply, redis.RedisError)]
                if len(errors) == len(replies):
                    raise errors[0]
                found.update(key for key, reply in zip(batch, replies, strict=True) if self._may_exist(reply))
        return found

    def _destroy_replaced(self, replaced: str, new: str) -> None:
        """Destroy the record that a new one has replaced. If that fails, so does the sign-in, and nobody gets the new ID."""
        try:
            self.destroy(replaced)
        except Unavailable:
            with suppress(Unavailable):
                self.destroy(new)
            raise

    def _may_exist(self, reply: Any) -> bool:
        return isinstance(reply, redis.RedisError) or bool(self._pooled.checked(int, reply))

    def records_of_user(self, user_id: int) -> dict[str, Fields]:
        with available():
            keys = [key for index in self._indexes(user_id) for key in self._members(index)]
            records = self._load_many(keys)
        return {key: record for key, record in zip(keys, records, strict=True) if record}

    def destroy_all(self, user_id: int, *, keep: str | None, password_version: int | None = None) -> int:
        version = "" if password_version is None else password_version
        arguments = [version, self._max_age, keep or ""]
        with available():
            destroyed = self._pooled.run_script(int, self._destroy_all, self._owner_keys(user_id), arguments)
            destroyed += self._destroy_members(self._indexes(user_id)[1], keep)
        return destroyed

    def key_ids_in_use(self) -> Iterator[frozenset[str]]:
        with available():
            keys = self._client.scan_iter(match=KEY_PREFIX + "*", count=_SCAN_BATCH)
            while batch := list(islice(keys, _SCAN_BATCH)):
                for record in self._load_many(batch):
                    yield key_ids(record)

    def _owner_keys(self, user_id: int) -> list[str]:
        """Return the keys of the index of a user's sessions and of the newest password version."""
        return [_user_key(user_id, name, is_tagged=self._is_cluster) for name in ("sessions", "password-version")]

    def _indexes(self, user_id: int) -> list[str]:
        """Return the keys of the index of new sessions, and of that of sessions copied from a server of the other kind."""
        return [_user_key(user_id, "sessions", is_tagged=is_tagged) for is_tagged in (self._is_cluster, not self._is_cluster)]

    def _are_together(self, key: str, other: str) -> bool:
        """Return whether one script may use both keys."""
        return not self._is_cluster or slot_of_key(key) == slot_of_key(other)

    def _members(self, index: str) -> list[str]:
        found = self._pooled.checked(list, self._pooled.execute("ZRANGE", index, 0, -1))
        return [self._pooled.checked(bytes, key).decode() for key in found]

    def _destroy_members(self, index: str, keep: str | None) -> int:
        replies = self._pooled.execute_all(*[("DEL", key) for key in self._members(index) if key != keep])
        return sum(self._pooled.checked(int, reply) for reply in replies)

    def _load_many(self, keys: Sequence[str | bytes]) -> list[Fields]:
        """Return the records in the order of the keys; a missing one, and a key of another type, has no fields."""
        try:
            replies = self._pooled.execute_all(*[("HGETALL", key) for key in keys])
        except redis.ResponseError:
            return [self._load_or_empty(key) for key in keys]
        return [_fields(self._pooled, reply) for reply in replies]

    def _load_or_empty(self, key: str | bytes) -> Fields:
        try:
            return _load(self._pooled, key)
        except CorruptRecord:
            return {}


def _load(commands: RedisCommands, key: str | bytes) -> Fields:
    """Return no fields if there is no record. Raises CorruptRecord if the key has another type."""
    try:
        return _fields(commands, commands.execute("HGETALL", key))
    except redis.ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            raise CorruptRecord("type") from None
        raise


def _fields(commands: RedisCommands, reply: Any) -> Fields:
    parts = [commands.checked(bytes, part) for part in commands.checked(list, reply)]
    if len(parts) % 2:
        commands.checked(dict, reply)
    # This application writes only UTF-8 names; a field under any other name fails to decrypt.
    return {name.decode(errors="replace"): value for name, value in zip(parts[::2], parts[1::2], strict=True)}


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + _SCAN_BATCH] for start in range(0, len(keys), _SCAN_BATCH))


def _user_key(user_id: int, name: str, *, is_tagged: bool) -> str:
    user = f"user:{user_id}"
    return f"{{{user}}}:{name}" if is_tagged else f"{user}:{name}"


def _is_tagged(key: str) -> bool:
    return key.startswith(KEY_PREFIX + "{")


def _optional(value: bytes | None) -> tuple[str, bytes]:
    return ("", b"") if value is None else ("=", value)
