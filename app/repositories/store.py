"""Repositories, their followers and their analyses, in SQL. Each function is work for `Database.run`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, exists, func, select, update

from app.database.clock import now
from app.database.schema import analyses, analysis_requests, follows, repositories
from app.database.upsert import insert_into
from app.jobs.leases import FAILED, QUEUED, SUCCEEDED, Lease, Leases, NotYet

CANCELLED = "cancelled"
ANALYSIS_INTERVAL = timedelta(days=1)
FIRST_FORMULA_VERSION = 1  # of reports that do not name the version of their formulas
KEPT_ANALYSES = 100  # per repository: as many successful ones, and as many others

leases = Leases(analyses, order=(analyses.c.turn.is_(None), analyses.c.turn), step="Waiting")


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
        """The fields that are published to sockets."""
        names = ("id", "repository_id", "status", "progress", "step")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PastAnalysis:
    """An analysis that succeeded."""

    analysis_id: int
    as_of: datetime
    scores: dict[str, int | None]
    formula_version: int = FIRST_FORMULA_VERSION  # only scores of the same version can be compared


@dataclass(frozen=True)
class FollowedRepository:
    """A repository as its followers see it. Only some queries fill in `report` and `history`."""

    id: int
    url: str
    name: str
    followed_at: datetime
    analysis: Analysis | None  # the latest
    last_success: PastAnalysis | None
    report: dict[str, Any] | None = None  # of `last_success`
    history: list[PastAnalysis] = field(default_factory=list)  # newest first
    tags: list[str] = field(default_factory=list)  # of this follower, sorted

    @property
    def scores(self) -> dict[str, int | None] | None:
        return self.last_success.scores if self.last_success else None

    @property
    def formula_version(self) -> int | None:
        return self.last_success.formula_version if self.last_success else None

    @property
    def as_of(self) -> datetime | None:
        return self.last_success.as_of if self.last_success else None


@dataclass(frozen=True)
class AnalysisLease(Lease):
    analysis: Analysis
    repository: Repository


REPOSITORY_COLUMNS = tuple(repositories.c[name] for name in Repository.__dataclass_fields__)
_ANALYSIS = tuple(analyses.c[name] for name in Analysis.__dataclass_fields__)
_PAST_ANALYSIS = (
    analyses.c.repository_id,
    analyses.c.id.label("analysis_id"),
    analyses.c.as_of,
    analyses.c.scores,
    func.coalesce(analyses.c.formula_version, FIRST_FORMULA_VERSION).label("formula_version"),
)
_LIVE = analyses.c.finished_at.is_(None)


def follow_of(user_id: int, repository_id: int) -> ColumnElement[bool]:
    """Return the condition for the row of a follower."""
    return (follows.c.user_id == user_id) & (follows.c.repository_id == repository_id)


# Functions for users.


def add_repository(connection: Connection, url: str, name: str) -> Repository:
    """Return the repository of a URL, which is created if necessary and locked."""
    timestamp = now(connection)
    values = {"url": url, "name": name, "created_at": timestamp, "due_at": timestamp + ANALYSIS_INTERVAL}
    found = None
    while found is None:  # it may be deleted between the two statements
        connection.execute(insert_into(connection, repositories).values(values).on_conflict_do_nothing())
        this = select(*REPOSITORY_COLUMNS).where(repositories.c.url == url)
        found = connection.execute(this.with_for_update()).first()
    return Repository(*found)


def follow(connection: Connection, user_id: int, repository_id: int) -> None:
    values = {"user_id": user_id, "repository_id": repository_id, "created_at": now(connection)}
    connection.execute(insert_into(connection, follows).values(values).on_conflict_do_nothing())


def count_followed(connection: Connection, user_id: int) -> int:
    return connection.execute(select(func.count()).select_from(follows).where(follows.c.user_id == user_id)).scalar_one()


def is_followed(connection: Connection, user_id: int, repository_id: int) -> bool:
    return bool(connection.execute(select(exists().where(follow_of(user_id, repository_id)))).scalar())


def followed_by_url(connection: Connection, user_id: int) -> dict[str, Repository]:
    joined = select(*REPOSITORY_COLUMNS).join(follows, follows.c.repository_id == repositories.c.id)
    return {row.url: Repository(*row) for row in connection.execute(joined.where(follows.c.user_id == user_id))}


def lock_repository(connection: Connection, repository_id: int) -> None:
    """Prevent changes of the followers and new analyses until this transaction ends."""
    connection.execute(select(repositories.c.id).where(repositories.c.id == repository_id).with_for_update())


def count_requested_analyses(connection: Connection, user_id: int) -> int:
    """Count the unfinished analyses that a user has requested."""
    return connection.execute(select(func.count()).where(_LIVE, analyses.c.requested_by == user_id)).scalar_one()


def unfollow(connection: Connection, user_id: int, repository_id: int) -> bool:
    return connection.execute(delete(follows).where(follow_of(user_id, repository_id))).rowcount == 1


def unfollow_all(connection: Connection, user_id: int) -> list[int]:
    """Stop following all repositories, which are locked. Return their IDs."""
    followed = select(follows.c.repository_id).where(follows.c.user_id == user_id)
    locked = select(repositories.c.id).where(repositories.c.id.in_(followed)).order_by(repositories.c.id).with_for_update()
    ids = list(connection.execute(locked).scalars())
    connection.execute(delete(follows).where(follows.c.user_id == user_id))
    return ids


def followers(connection: Connection, repository_id: int) -> list[int]:
    return list(connection.execute(select(follows.c.user_id).where(follows.c.repository_id == repository_id)).scalars())


def start_analysis(connection: Connection, repository_id: int, requested_by: int | None = None) -> tuple[Analysis, bool]:
    """Return the live analysis of a repository, and whether to enqueue it. The caller has locked the repository.

    It is enqueued if it is new, or if it was a daily one that a user now waits for.
    """
    request = {"requested_by": requested_by, "turn": _next_turn(connection, requested_by) if requested_by else None}
    values = {"repository_id": repository_id, **request, **leases.new(connection)}
    insert = insert_into(connection, analyses).values(values).on_conflict_do_nothing().returning(analyses.c.id)
    waits_for_nobody = analyses.c.requested_by.is_(None) & (analyses.c.status == QUEUED)
    adopt = update(analyses).where(analyses.c.repository_id == repository_id, waits_for_nobody).values(request)
    while True:  # the live analysis may finish between the statements
        is_created = connection.execute(insert).first() is not None
        is_adopted = not is_created and requested_by is not None and connection.execute(adopt).rowcount == 1
        if live := live_analysis(connection, repository_id):
            due_at = now(connection) + ANALYSIS_INTERVAL
            connection.execute(update(repositories).where(repositories.c.id == repository_id).values(due_at=due_at))
            return live, is_created or is_adopted


def record_request(connection: Connection, analysis_id: int, user_id: int) -> None:
    """Record that a user waits for a live analysis. The caller has locked the repository."""
    values = {"analysis_id": analysis_id, "user_id": user_id}
    connection.execute(insert_into(connection, analysis_requests).values(values).on_conflict_do_nothing())


def subscription(connection: Connection, user_id: int, repository_id: int) -> dict[str, bool] | None:
    """Return which types of notifications a follower has chosen for a repository, or None for the user's default."""
    chosen = select(follows.c.subscription).where(follow_of(user_id, repository_id))
    found: dict[str, bool] | None = connection.execute(chosen).scalar()
    return found


def save_subscription(connection: Connection, user_id: int, repository_id: int, types: dict[str, bool] | None) -> None:
    connection.execute(update(follows).where(follow_of(user_id, repository_id)).values(subscription=types))


def tags_of(connection: Connection, user_id: int, repository_ids: Iterable[int]) -> dict[int, list[str]]:
    """Return the tags of those of the repositories that the user follows, by repository ID."""
    these = (follows.c.user_id == user_id) & follows.c.repository_id.in_(list(repository_ids))
    rows = connection.execute(select(follows.c.repository_id, follows.c.tags).where(these))
    return {row.repository_id: row.tags or [] for row in rows}


def save_tags(connection: Connection, user_id: int, repository_id: int, tags: Sequence[str]) -> None:
    connection.execute(update(follows).where(follow_of(user_id, repository_id)).values(tags=list(tags) or None))


def _next_turn(connection: Connection, user_id: int) -> int:
    """Return the turn after the user's last one. A user who has none joins the current turn of the others."""
    own = case((analyses.c.requested_by == user_id, analyses.c.turn))
    current, last = connection.execute(select(func.min(analyses.c.turn), func.max(own)).where(_LIVE)).one()
    return max(current, last + 1) if last is not None else current or 0


def live_analysis(connection: Connection, repository_id: int) -> Analysis | None:
    row = connection.execute(select(*_ANALYSIS).where(analyses.c.repository_id == repository_id, _LIVE)).first()
    return Analysis(*row) if row else None


def latest_analysis(connection: Connection, repository_id: int) -> Analysis | None:
    of_repository = select(*_ANALYSIS).where(analyses.c.repository_id == repository_id)
    row = connection.execute(of_repository.order_by(analyses.c.id.desc()).limit(1)).first()
    return Analysis(*row) if row else None


def get_analysis(connection: Connection, analysis_id: int) -> Analysis | None:
    row = connection.execute(select(*_ANALYSIS).where(analyses.c.id == analysis_id)).first()
    return Analysis(*row) if row else None


def get_report(connection: Connection, analysis_id: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = connection.execute(select(analyses.c.report).where(analyses.c.id == analysis_id)).scalar()
    return found


def list_followed(connection: Connection, user_id: int, repository_ids: Iterable[int] | None = None) -> list[FollowedRepository]:
    """Return the repositories that a user follows, or those of them with the given IDs; last followed first."""
    followed = follows.c.user_id == user_id
    if repository_ids is not None:
        followed &= follows.c.repository_id.in_(list(repository_ids))
    rows = connection.execute(
        select(*REPOSITORY_COLUMNS, follows.c.created_at.label("followed_at"), follows.c.tags)
        .join(follows, follows.c.repository_id == repositories.c.id)
        .where(followed)
        .order_by(follows.c.created_at.desc(), repositories.c.id.desc())
    ).all()
    ids = [row.id for row in rows]
    successes = connection.execute(_latest_of_each(ids, analyses.c.status == SUCCEEDED, _PAST_ANALYSIS))
    last_success = {row.repository_id: _past_analysis(row) for row in successes}
    latest = {row.repository_id: Analysis(*row) for row in connection.execute(_latest_of_each(ids, None, _ANALYSIS))}
    return [
        FollowedRepository(
            **{**row._mapping, "tags": row.tags or []}, analysis=latest.get(row.id), last_success=last_success.get(row.id)
        )
        for row in rows
    ]


def history(connection: Connection, repository_id: int, limit: int = KEPT_ANALYSES) -> list[PastAnalysis]:
    """Return the last successful analyses of a repository, newest first."""
    succeeded = select(*_PAST_ANALYSIS).where(analyses.c.repository_id == repository_id, analyses.c.status == SUCCEEDED)
    return [_past_analysis(row) for row in connection.execute(succeeded.order_by(analyses.c.id.desc()).limit(limit))]


def cancel(connection: Connection, analysis_id: int) -> bool:
    """Cancel an analysis. Return False if it has already finished."""
    return bool(_cancel(connection, analyses.c.id == analysis_id))


def cancel_unfollowed(connection: Connection, repository_ids: Sequence[int]) -> list[Analysis]:
    """Cancel the live analyses of those of the repositories that nobody follows, and return them. The caller has locked them."""
    has_followers = exists().where(follows.c.repository_id == analyses.c.repository_id)
    return _cancel(connection, analyses.c.repository_id.in_(repository_ids) & ~has_followers)


# Functions for workers.


def claim(connection: Connection, analysis_id: int, token: str) -> AnalysisLease | NotYet | None:
    """Lease the next analysis. Return None if none waits and the one of the message has finished."""
    lease = leases.claim(connection, analysis_id, token, step="Starting")
    if not isinstance(lease, Lease):
        return lease
    analysis = get_analysis(connection, lease.job_id)
    assert analysis is not None
    this = select(*REPOSITORY_COLUMNS).where(repositories.c.id == analysis.repository_id)
    return AnalysisLease(**vars(lease), analysis=analysis, repository=Repository(*connection.execute(this).one()))


def succeed(connection: Connection, lease: AnalysisLease, report: dict[str, Any]) -> bool:
    """Save a report. Return False if the lease is lost."""
    values = {
        "status": SUCCEEDED,
        "progress": 100,
        "step": "Done",
        "as_of": datetime.fromisoformat(report["as_of"]),
        "scores": {name: result["score"] for name, result in report["scores"].items()},
        "report": report,
        "formula_version": report.get("formula_version"),
    }
    return _finish(connection, lease, values)


def fail(connection: Connection, lease: AnalysisLease, error: str) -> bool:
    """Save a failure. Return False if the lease is lost."""
    return _finish(connection, lease, {"status": FAILED, "error": error})


@dataclass(frozen=True)
class Audience:
    """The followers of a repository for whom an analysis ends, by user ID."""

    followers: frozenset[int]
    requesters: frozenset[int]  # those who requested this analysis; empty for a daily one
    newcomers: frozenset[int]  # the requesters who have not seen the previous report
    subscriptions: dict[int, dict[str, bool]]  # of the followers who have chosen types of notifications for this repository


def audience(connection: Connection, analysis_id: int, repository_id: int) -> Audience:
    of_repository = analyses.c.repository_id == repository_id
    last_success = select(func.max(analyses.c.finished_at)).where(of_repository, analyses.c.status == SUCCEEDED)
    reported_at = connection.execute(last_success).scalar()
    first = select(analyses.c.requested_by).where(analyses.c.id == analysis_id)
    others = select(analysis_requests.c.user_id).where(analysis_requests.c.analysis_id == analysis_id)
    requested = {*connection.execute(first).scalars(), *connection.execute(others).scalars()}
    columns = follows.c.user_id, follows.c.created_at, follows.c.subscription
    rows = connection.execute(select(*columns).where(follows.c.repository_id == repository_id)).all()
    requesters = [row for row in rows if row.user_id in requested]
    return Audience(
        followers=frozenset(row.user_id for row in rows),
        requesters=frozenset(row.user_id for row in requesters),
        newcomers=frozenset(row.user_id for row in requesters if reported_at and row.created_at > reported_at),
        subscriptions={row.user_id: row.subscription for row in rows if row.subscription is not None},
    )


def told(connection: Connection, repository_id: int) -> dict[str, Any]:
    """Return what the followers of a repository were last told."""
    return connection.execute(select(repositories.c.told).where(repositories.c.id == repository_id)).scalar() or {}


def save_told(connection: Connection, repository_id: int, told: dict[str, Any]) -> None:
    connection.execute(update(repositories).where(repositories.c.id == repository_id).values(told=told))


def last_report(connection: Connection, repository_id: int) -> dict[str, Any] | None:
    succeeded = select(analyses.c.report).where(analyses.c.repository_id == repository_id, analyses.c.status == SUCCEEDED)
    found: dict[str, Any] | None = connection.execute(succeeded.order_by(analyses.c.id.desc()).limit(1)).scalar()
    return found


# Functions for periodic tasks.


def list_due(connection: Connection, limit: int) -> list[int]:
    """Return the IDs of repositories whose daily analysis is due."""
    due = select(repositories.c.id).where(repositories.c.due_at <= now(connection))
    return list(connection.execute(due.order_by(repositories.c.due_at).limit(limit)).scalars())


def claim_due(connection: Connection, repository_id: int) -> bool:
    """Move the due time of a repository to a day later. Only one of several concurrent callers gets True."""
    timestamp = now(connection)
    due = (repositories.c.id == repository_id) & (repositories.c.due_at <= timestamp)
    return connection.execute(update(repositories).where(due).values(due_at=timestamp + ANALYSIS_INTERVAL)).rowcount == 1


def delete_if_unfollowed(connection: Connection, repository_id: int) -> bool:
    """Delete a repository that nobody follows. The lock on its row excludes new followers in the meantime."""
    lock_repository(connection, repository_id)
    has_followers = exists().where(follows.c.repository_id == repository_id)
    return connection.execute(delete(repositories).where(repositories.c.id == repository_id, ~has_followers)).rowcount == 1


def _past_analysis(row: Any) -> PastAnalysis:
    return PastAnalysis(row.analysis_id, row.as_of, row.scores, row.formula_version)


def _latest_of_each(repository_ids: Sequence[int], condition: ColumnElement[bool] | None, columns: Iterable[Any]) -> Any:
    """Return a query for the latest analysis of each repository that fulfils the condition."""
    latest = select(func.max(analyses.c.id)).where(analyses.c.repository_id.in_(repository_ids))
    if condition is not None:
        latest = latest.where(condition)
    return select(*columns).where(analyses.c.id.in_(latest.group_by(analyses.c.repository_id)))


def _finish(connection: Connection, lease: AnalysisLease, values: dict[str, Any]) -> bool:
    if not leases.finish(connection, lease, requested_by=None, **values):
        return False
    _delete_oldest(connection, lease.repository.id)
    return True


def _cancel(connection: Connection, condition: ColumnElement[bool]) -> list[Analysis]:
    values = {"status": CANCELLED, "finished_at": now(connection), "lease": None, "leased_until": None, "requested_by": None}
    statement = update(analyses).where(condition, _LIVE).values(values).returning(*_ANALYSIS)
    cancelled = [Analysis(*row) for row in connection.execute(statement)]
    for analysis in cancelled:
        _delete_oldest(connection, analysis.repository_id)
    return cancelled


def _delete_oldest(connection: Connection, repository_id: int) -> None:
    for kind in (analyses.c.status == SUCCEEDED, analyses.c.status != SUCCEEDED):
        finished = (analyses.c.repository_id == repository_id) & ~_LIVE & kind
        kept = select(analyses.c.id).where(finished).order_by(analyses.c.id.desc()).limit(KEPT_ANALYSES)
        connection.execute(delete(analyses).where(finished, analyses.c.id.not_in(kept)))
