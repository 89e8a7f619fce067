"""Session records of an embedded instance, in its database. They survive a restart."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select, update

from app.database.batches import delete_batch
from app.database.engine import Database
from app.database.schema import session_fields, sessions, users
from app.sessions.cookie import new_session_id
from app.sessions.store import MAX_SESSIONS_PER_USER, FieldChange, Fields, Owner, key_ids

SCAN_BATCH = 500  # sessions read in one transaction
EXPIRED_PER_SIGN_IN = 100  # expired sessions that a new one removes: more than are added, and few enough for a request


class SqlSessionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def new_id(self, owner: Owner | None) -> str:
        return new_session_id()

    def load(self, key: str) -> Fields | None:
        return self._database.run(_load, key)

    load_again = load  # a reply of the database can't belong to another statement

    def create(self, key: str, fields: Fields, ttl: int, owner: Owner | None, replaces: str | None) -> bool:
        return self._database.run(_create, key, fields, ttl, owner, replaces)

    def merge(self, key: str, changes: Mapping[str, FieldChange], ttl: int | None, user_id: int | None = None) -> bool:
        del user_id  # a column of the record
        return self._database.run(_merge, key, changes, ttl)

    def destroy(self, key: str) -> None:
        self._database.run(_destroy, key)

    def existing(self, keys: Sequence[str]) -> set[str]:
        return self._database.run(_existing, keys)

    def records_of_user(self, user_id: int) -> dict[str, Fields]:
        live = sessions.c.expires_at > datetime.now(UTC)
        return self._database.run(_records, live & (sessions.c.user_id == user_id))

    def destroy_all(self, user_id: int, *, keep: str | None, password_version: int | None = None) -> int:
        # Not stored: `create` compares the version with the user's row.
        del password_version
        return self._database.run(_destroy_all, user_id, keep)

    def key_ids_in_use(self) -> Iterator[frozenset[str]]:
        last = ""
        while keys := self._database.run(_live_keys_after, last, SCAN_BATCH):
            last = keys[-1]
            yield from map(key_ids, self._database.run(_records, sessions.c.key.in_(keys)).values())


def _expiry(ttl: int) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=ttl)


def _load(connection: Connection, key: str) -> Fields | None:
    live = exists().where(sessions.c.key == key, sessions.c.expires_at > datetime.now(UTC))
    rows = connection.execute(select(session_fields.c.name, session_fields.c.sealed).where(session_fields.c.key == key, live))
    return {row.name: row.sealed for row in rows} or None


def _existing(connection: Connection, keys: Sequence[str]) -> set[str]:
    live = sessions.c.key.in_(keys) & (sessions.c.expires_at > datetime.now(UTC))
    return set(connection.execute(select(sessions.c.key).where(live)).scalars())


def _live_keys_after(connection: Connection, key: str, limit: int) -> Sequence[str]:
    following = select(sessions.c.key).where(sessions.c.key > key, sessions.c.expires_at > datetime.now(UTC))
    return connection.execute(following.order_by(sessions.c.key).limit(limit)).scalars().all()


def _create(connection: Connection, key: str, fields: Fields, ttl: int, owner: Owner | None, replaces: str | None) -> bool:
    if owner and not _has_password_version(connection, owner):
        return False
    delete_batch(connection, sessions, EXPIRED_PER_SIGN_IN, sessions.c.expires_at <= datetime.now(UTC))
    if replaces:
        _destroy(connection, replaces)
    if owner:
        _end_oldest(connection, owner.user_id)
    values = {"key": key, "user_id": owner and owner.user_id, "created_at": datetime.now(UTC), "expires_at": _expiry(ttl)}
    connection.execute(insert(sessions).values(values))
    _put(connection, key, fields)
    return True


def _end_oldest(connection: Connection, user_id: int) -> None:
    mine = sessions.c.user_id == user_id
    kept = select(sessions.c.key).where(mine).order_by(sessions.c.created_at.desc()).limit(MAX_SESSIONS_PER_USER - 1)
    connection.execute(delete(sessions).where(mine, sessions.c.key.not_in(kept)))


def _has_password_version(connection: Connection, owner: Owner) -> bool:
    statement = select(users.c.password_version).where(users.c.id == owner.user_id)
    # The lock prevents the deletion of the account before the transaction ends.
    version = connection.execute(statement.with_for_update(read=True, key_share=True)).scalar()
    return version == owner.password_version


def _merge(connection: Connection, key: str, changes: Mapping[str, FieldChange], ttl: int | None) -> bool:
    locked = select(sessions.c.key).where(sessions.c.key == key, sessions.c.expires_at > datetime.now(UTC)).with_for_update()
    if connection.execute(locked).first() is None:
        return False
    applied = [name for name, change in changes.items() if _is_as_expected(connection, key, name, change)]
    connection.execute(delete(session_fields).where(session_fields.c.key == key, session_fields.c.name.in_(applied)))
    _put(connection, key, {name: value for name in applied if (value := changes[name].value) is not None})
    if ttl is not None and applied:
        connection.execute(update(sessions).where(sessions.c.key == key).values(expires_at=_expiry(ttl)))
    return True


def _is_as_expected(connection: Connection, key: str, name: str, change: FieldChange) -> bool:
    if change.expected is None:
        return True
    field = select(session_fields.c.sealed).where(session_fields.c.key == key, session_fields.c.name == name)
    return connection.execute(field).scalar() == change.expected


def _put(connection: Connection, key: str, fields: Fields) -> None:
    if fields:
        connection.execute(insert(session_fields), [{"key": key, "name": n, "sealed": s} for n, s in fields.items()])


def _destroy(connection: Connection, key: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.key == key))


def _records(connection: Connection, condition: ColumnElement[bool]) -> dict[str, Fields]:
    records: dict[str, Fields] = defaultdict(dict)
    rows = select(session_fields).join(sessions, sessions.c.key == session_fields.c.key).where(condition)
    for row in connection.execute(rows):
        records[row.key][row.name] = row.sealed
    return dict(records)


def _destroy_all(connection: Connection, user_id: int, keep: str | None) -> int:
    return connection.execute(delete(sessions).where(sessions.c.user_id == user_id, sessions.c.key != (keep or ""))).rowcount
