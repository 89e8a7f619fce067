"""Rows of one repository under several addresses become one row: see `app.analysis.address`.

Its followers, analyses and notifications move to the row that has the address already, or to the oldest one. The previous
release may add rows under other addresses meanwhile: they are separate repositories, as before.
"""

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from alembic import op

from app.analysis.address import AddressRefused, parse
from app.database.clock import now
from app.database.schema import UtcDateTime

revision = "0011"
down_revision = "0010"

repositories = sa.table("repositories", sa.column("id"), sa.column("url"), sa.column("name"))
follows = sa.table("follows", sa.column("user_id"), sa.column("repository_id"), sa.column("share_key"))
analyses = sa.table(
    "analyses",
    *(sa.column(name) for name in ("id", "repository_id", "status", "lease", "requested_by")),
    sa.column("leased_until", UtcDateTime()),
    sa.column("finished_at", UtcDateTime()),
)
analysis_requests = sa.table("analysis_requests", sa.column("analysis_id"), sa.column("user_id"))
notifications = sa.table("notifications", sa.column("user_id"), sa.column("seq"), sa.column("data", sa.JSON()))


def upgrade() -> None:
    connection = op.get_bind()
    for (url, name), rows in _find_changed(connection).items():
        kept = next((row.id for row in rows if row.url == url), rows[0].id)
        for row in rows:
            if row.id != kept:
                _merge(connection, row.id, kept)
        connection.execute(sa.update(repositories).where(repositories.c.id == kept).values(url=url, name=name))


def _find_changed(connection: sa.Connection) -> dict[tuple[str, str], list[Any]]:
    """Return the rows, oldest first, by the URL and name that they get, unless nothing changes. They are locked."""
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in connection.execute(sa.select(repositories.c.id, repositories.c.url).order_by(repositories.c.id)):
        try:
            address = parse(row.url, roots=())
        except AddressRefused:  # a local repository
            continue
        groups[address.url, address.name].append(row)
    changed = {names: rows for names, rows in groups.items() if len(rows) > 1 or rows[0].url != names[0]}
    ids = [row.id for rows in changed.values() for row in rows]
    for begin in range(0, len(ids), 1000):
        some = repositories.c.id.in_(sorted(ids)[begin : begin + 1000])
        connection.execute(sa.select(repositories.c.id).where(some).order_by(repositories.c.id).with_for_update())
    return changed


def _merge(connection: sa.Connection, other: int, kept: int) -> None:
    _move_notifications(connection, other, kept)
    _move_followers(connection, other, kept)
    _move_analyses(connection, other, kept)
    connection.execute(sa.delete(repositories).where(repositories.c.id == other))


def _move_notifications(connection: sa.Connection, other: int, kept: int) -> None:
    followers = sa.select(follows.c.user_id).where(follows.c.repository_id == other)
    about = notifications.c.data["repository_id"].as_integer() == other
    found = connection.execute(sa.select(notifications).where(notifications.c.user_id.in_(followers), about)).all()
    for row in found:
        this = (notifications.c.user_id == row.user_id) & (notifications.c.seq == row.seq)
        connection.execute(sa.update(notifications).where(this).values(data={**row.data, "repository_id": kept}))


def _move_followers(connection: sa.Connection, other: int, kept: int) -> None:
    """Move the followers. One who follows both keeps one row, and a link under which they share the report."""
    rows = connection.execute(sa.select(follows).where(follows.c.repository_id.in_([other, kept]))).all()
    already = {row.user_id: row for row in rows if row.repository_id == kept}
    for row in rows:
        if row.repository_id == other and row.user_id in already:
            connection.execute(sa.delete(follows).where(_is_follow(row)))
            if row.share_key and not already[row.user_id].share_key:
                this = _is_follow(already[row.user_id])
                connection.execute(sa.update(follows).where(this).values(share_key=row.share_key))
    connection.execute(sa.update(follows).where(follows.c.repository_id == other).values(repository_id=kept))


def _is_follow(row: Any) -> sa.ColumnElement[bool]:
    return sa.and_(follows.c.user_id == row.user_id, follows.c.repository_id == row.repository_id)


def _move_analyses(connection: sa.Connection, other: int, kept: int) -> None:
    """Move the analyses. Of two that have not finished, one is cancelled, and its users wait for the other one."""
    live = sa.select(analyses.c.id).where(analyses.c.finished_at.is_(None))
    remaining = connection.execute(live.where(analyses.c.repository_id == kept)).scalar()
    cancelled = connection.execute(live.where(analyses.c.repository_id == other)).scalar()
    if remaining and cancelled:
        _move_requests(connection, cancelled, remaining)
        values = {
            "status": "cancelled", "finished_at": now(connection), "lease": None, "leased_until": None, "requested_by": None
        }
        connection.execute(sa.update(analyses).where(analyses.c.id == cancelled).values(values))
    connection.execute(sa.update(analyses).where(analyses.c.repository_id == other).values(repository_id=kept))


def _move_requests(connection: sa.Connection, cancelled: int, remaining: int) -> None:
    users = sa.select(analysis_requests.c.user_id).where(analysis_requests.c.analysis_id == remaining)
    of_cancelled = analysis_requests.c.analysis_id == cancelled
    connection.execute(sa.delete(analysis_requests).where(of_cancelled, analysis_requests.c.user_id.in_(users)))
    connection.execute(sa.update(analysis_requests).where(of_cancelled).values(analysis_id=remaining))
