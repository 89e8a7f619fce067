"""Queries for the rehearsal's events in SQL. Each function is called through `Database.run`."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, func, select

from app.database.schema import events, people


def of_user(connection: Connection, user_id: int) -> dict[str, datetime]:
    """Return the user's events as {event ID: time of the event}."""
    mine = select(events.c.event_id, events.c.occurred_at).join(people, people.c.pseudonym == events.c.person)
    return {row.event_id: row.occurred_at for row in connection.execute(mine.where(people.c.user_id == user_id))}


def row_counts(connection: Connection, name: str, since: datetime) -> dict[str, int]:
    """Return the number of rows of each event with that name, under any pseudonym."""
    named = select(events.c.event_id, func.count().label("times")).where(events.c.name == name, events.c.occurred_at >= since)
    return {row.event_id: row.times for row in connection.execute(named.group_by(events.c.event_id))}


def beyond_fences(connection: Connection, user_ids: Sequence[int]) -> set[str]:
    """Return the IDs of all events, of any name, that happened after the opt-out of those users who are opted out."""
    theirs = select(events.c.event_id).join(people, people.c.pseudonym == events.c.person)
    later = people.c.opted_out & (events.c.occurred_at > people.c.fenced_at)
    return set(connection.execute(theirs.where(people.c.user_id.in_(user_ids), later)).scalars())
