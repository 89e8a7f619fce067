"""Repositories, who follows them, and their analyses, in SQL. Each function is work for `Database.run`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, Table, delete, exists, func, select, update

from app.database.clock import now
from app.database.schema import analyses, follows, repositories
from app.database.upsert import insert_into
from app.jobs.leases import FAILED, SUCCEEDED, AlreadyLeased, Lease, Leases

CANCELLED = "cancelled"
ANALYSED_EVERY = timedelta(days=1)
KEPT_ANALYSES = 100  # of each repository: so many that succeeded, and so many others

leases = Leases(analyses, step="Waiting")


@dataclass(frozen=True)
class Repository:
    id: int
    url: str
    name: str


@dataclass(frozen=True)
class Analysis:
    id: int
    repository_id: int
    status: str
    progress: int  # percent
    step: str
    error: str | None
    requested_at: datetime
    finished_at: datetime | None

    @property
    def state(self) -> dict[str, Any]:
        """What sockets are told."""
        names = ("id", "repository_id", "status", "progress", "step")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Past:
    """An analysis that succeeded."""

    analysis_id: int
    as_of: datetime
    scores: dict[str, int | None]


@dataclass(frozen=True)
class Entry:
    """A repository as one who follows it sees it."""

    id: int
    url: str
    name: str
    followed_at: datetime
    analysis: Analysis | None  # the latest
    last: Past | None  # the latest that succeeded
    report: dict[str, Any] | None = None  # of `last`, where it was asked for
    history: list[Past] = field(default_factory=list)  # newest first, where it was asked for

    @property
    def scores(self) -> dict[str, int | None] | None:
        return self.last.scores if self.last else None

    @property
    def as_of(self) -> datetime | None:
        return self.last.as_of if self.last else None


@dataclass(frozen=True)
class AnalysisLease(Lease):
    """The right to work on an analysis."""

    analysis: Analysis
    repository: Repository


_ANALYSIS = (
    analyses.c.id,
    analyses.c.repository_id,
    analyses.c.status,
    analyses.c.progress,
    analyses.c.step,
    analyses.c.error,
    analyses.c.requested_at,
    analyses.c.finished_at,
)
_LIVE = analyses.c.finished_at.is_(None)


# What users do.


def add(connection: Connection, url: str, name: str) -> Repository:
    """The row of that address, old or new, which stays as long as this transaction lasts."""
    moment = now(connection)
    values = {"url": url, "name": name, "created_at": moment, "due_at": moment + ANALYSED_EVERY}
    found = None
    while found is None:  # it may be deleted between the two statements
        connection.execute(_insert_new(connection, repositories, values))
        mine = select(repositories.c.id, repositories.c.url, repositories.c.name).where(repositories.c.url == url)
        found = connection.execute(mine.with_for_update(read=True, key_share=True)).first()
    return Repository(*found)


def follow(connection: Connection, user_id: int, repository_id: int) -> None:
    values = {"user_id": user_id, "repository_id": repository_id, "created_at": now(connection)}
    connection.execute(_insert_new(connection, follows, values))


def count_followed(connection: Connection, user_id: int) -> int:
    return connection.execute(select(func.count()).select_from(follows).where(follows.c.user_id == user_id)).scalar_one()


def is_followed(connection: Connection, user_id: int, repository_id: int) -> bool:
    row = exists().where(follows.c.user_id == user_id, follows.c.repository_id == repository_id)
    return bool(connection.execute(select(row)).scalar())


def lock(connection: Connection, repository_id: int) -> None:
    """Until this transaction ends nobody begins to follow it."""
    connection.execute(select(repositories.c.id).where(repositories.c.id == repository_id).with_for_update())


def count_live(connection: Connection, user_id: int) -> int:
    """Analyses that are not over, of what a user follows."""
    mine = select(follows.c.repository_id).where(follows.c.user_id == user_id)
    return connection.execute(select(func.count()).where(_LIVE, analyses.c.repository_id.in_(mine))).scalar_one()


def unfollow(connection: Connection, user_id: int, repository_id: int) -> bool:
    mine = (follows.c.user_id == user_id) & (follows.c.repository_id == repository_id)
    return connection.execute(delete(follows).where(mine)).rowcount == 1


def followers(connection: Connection, repository_id: int) -> list[int]:
    return list(connection.execute(select(follows.c.user_id).where(follows.c.repository_id == repository_id)).scalars())


def start(connection: Connection, repository_id: int) -> tuple[Analysis, bool]:
    """The live analysis of a repository, and whether it is a new one."""
    values = {"repository_id": repository_id, **leases.new(connection)}
    while True:  # a live one may end between the two statements
        created = connection.execute(_insert_new(connection, analyses, values).returning(analyses.c.id)).scalar()
        live = connection.execute(select(*_ANALYSIS).where(analyses.c.repository_id == repository_id, _LIVE)).first()
        if live:
            due = update(repositories).where(repositories.c.id == repository_id).values(due_at=now(connection) + ANALYSED_EVERY)
            connection.execute(due)
            return Analysis(*live), created is not None


def latest(connection: Connection, repository_id: int) -> Analysis | None:
    mine = select(*_ANALYSIS).where(analyses.c.repository_id == repository_id)
    row = connection.execute(mine.order_by(analyses.c.id.desc()).limit(1)).first()
    return Analysis(*row) if row else None


def one(connection: Connection, analysis_id: int) -> Analysis | None:
    row = connection.execute(select(*_ANALYSIS).where(analyses.c.id == analysis_id)).first()
    return Analysis(*row) if row else None


def report(connection: Connection, analysis_id: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = connection.execute(select(analyses.c.report).where(analyses.c.id == analysis_id)).scalar()
    return found


def entries(connection: Connection, user_id: int, repository_ids: Iterable[int] | None = None) -> list[Entry]:
    """What a user follows, or of it those; the last one that was added first."""
    mine = follows.c.user_id == user_id
    if repository_ids is not None:
        mine &= follows.c.repository_id.in_(list(repository_ids))
    followed = connection.execute(
        select(repositories.c.id, repositories.c.url, repositories.c.name, follows.c.created_at.label("followed_at"))
        .join(follows, follows.c.repository_id == repositories.c.id)
        .where(mine)
        .order_by(follows.c.created_at.desc(), repositories.c.id.desc())
    ).all()
    ids = [row.id for row in followed]
    last = {past.repository_id: _past(past) for past in connection.execute(_newest(ids, analyses.c.status == SUCCEEDED, _PAST))}
    newest = {row.repository_id: Analysis(*row) for row in connection.execute(_newest(ids, None, _ANALYSIS))}
    return [Entry(**row._mapping, analysis=newest.get(row.id), last=last.get(row.id)) for row in followed]


def history(connection: Connection, repository_id: int) -> list[Past]:
    """Newest first."""
    mine = select(*_PAST).where(analyses.c.repository_id == repository_id, analyses.c.status == SUCCEEDED)
    return [_past(row) for row in connection.execute(mine.order_by(analyses.c.id.desc()).limit(KEPT_ANALYSES))]


def cancel(connection: Connection, analysis_id: int) -> bool:
    """False if it has ended before."""
    values = {"status": CANCELLED, "finished_at": now(connection), "lease": None, "leased_until": None}
    ended = update(analyses).where(analyses.c.id == analysis_id, _LIVE).values(values).returning(analyses.c.repository_id)
    repository_id = connection.execute(ended).scalar()
    if repository_id is None:
        return False
    _forget_oldest(connection, repository_id)
    return True


# What workers do.


def claim(connection: Connection, analysis_id: int, token: str) -> AnalysisLease | AlreadyLeased | None:
    """None if it has ended."""
    lease = leases.claim(connection, analysis_id, token, step="Beginning")
    if not isinstance(lease, Lease):
        return lease
    analysis = one(connection, analysis_id)
    assert analysis is not None
    place = select(repositories.c.id, repositories.c.url, repositories.c.name).where(repositories.c.id == analysis.repository_id)
    return AnalysisLease(**vars(lease), analysis=analysis, repository=Repository(*connection.execute(place).one()))


def succeed(connection: Connection, lease: AnalysisLease, report: dict[str, Any]) -> bool:
    """False if the lease was lost before."""
    values = {
        "status": SUCCEEDED,
        "progress": 100,
        "step": "Done",
        "as_of": datetime.fromisoformat(report["as_of"]),
        "scores": {name: judged["score"] for name, judged in report["scores"].items()},
        "report": report,
    }
    return _end(connection, lease, values)


def fail(connection: Connection, lease: AnalysisLease, error: str) -> bool:
    """False if the lease was lost before."""
    return _end(connection, lease, {"status": FAILED, "error": error})


def last_report(connection: Connection, repository_id: int) -> dict[str, Any] | None:
    mine = select(analyses.c.report).where(analyses.c.repository_id == repository_id, analyses.c.status == SUCCEEDED)
    found: dict[str, Any] | None = connection.execute(mine.order_by(analyses.c.id.desc()).limit(1)).scalar()
    return found


# What has to be done again and again.


def due(connection: Connection, limit: int) -> list[int]:
    """Repositories whose time has come."""
    ready = select(repositories.c.id).where(repositories.c.due_at <= now(connection))
    return list(connection.execute(ready.order_by(repositories.c.due_at).limit(limit)).scalars())


def take_due(connection: Connection, repository_id: int) -> bool:
    """True for one caller only: its next time is a day later."""
    moment = now(connection)
    ready = (repositories.c.id == repository_id) & (repositories.c.due_at <= moment)
    return connection.execute(update(repositories).where(ready).values(due_at=moment + ANALYSED_EVERY)).rowcount == 1


def remove_unfollowed(connection: Connection, repository_id: int) -> bool:
    """With the row locked, so that nobody can begin to follow it in the meantime."""
    lock(connection, repository_id)
    followed = exists().where(follows.c.repository_id == repository_id)
    return connection.execute(delete(repositories).where(repositories.c.id == repository_id, ~followed)).rowcount == 1


_PAST = (analyses.c.repository_id, analyses.c.id.label("analysis_id"), analyses.c.as_of, analyses.c.scores)


def _past(row: Any) -> Past:
    return Past(row.analysis_id, row.as_of, row.scores)


def _newest(repository_ids: Sequence[int], condition: ColumnElement[bool] | None, columns: Iterable[Any]) -> Any:
    """Of each of the repositories, the last of its analyses that is so."""
    last = select(func.max(analyses.c.id)).where(analyses.c.repository_id.in_(repository_ids))
    if condition is not None:
        last = last.where(condition)
    return select(*columns).where(analyses.c.id.in_(last.group_by(analyses.c.repository_id)))


def _end(connection: Connection, lease: AnalysisLease, values: dict[str, Any]) -> bool:
    if not leases.finish(connection, lease, **values):
        return False
    _forget_oldest(connection, lease.repository.id)
    return True


def _forget_oldest(connection: Connection, repository_id: int) -> None:
    for kind in (analyses.c.status == SUCCEEDED, analyses.c.status != SUCCEEDED):
        mine = (analyses.c.repository_id == repository_id) & ~_LIVE & kind
        kept = select(analyses.c.id).where(mine).order_by(analyses.c.id.desc()).limit(KEPT_ANALYSES)
        connection.execute(delete(analyses).where(mine, analyses.c.id.not_in(kept)))


def _insert_new(connection: Connection, table: Table, values: dict[str, Any]) -> Insert:
    """Nothing, where there is such a row already, or one comes into being at this moment."""
    return insert_into(connection, table).values(values).on_conflict_do_nothing()
