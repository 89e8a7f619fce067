"""`/api/repositories` and `/api/analyses`: what a user follows, and the reports about it, as JSON."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from pydantic import BaseModel, Field

from app.auth.guards import login_required, require_user
from app.core.extensions import extension
from app.core.timestamps import iso
from app.http.api import Body, Query, answer, no_content, operation
from app.repositories.service import Analysis, Entry, Past, Repositories, Repository

blueprint = Blueprint("repositories", __name__, url_prefix="/api")


class AddBody(Body):
    url: str = Field(min_length=1, max_length=2000)


class CompareQuery(Query):
    ids: str = Field(pattern=r"^[0-9]{1,18}(,[0-9]{1,18}){0,3}$", description="One to four ids of repositories, with commas.")


class RepositoryView(BaseModel):
    id: int
    url: str
    name: str


class StartedView(BaseModel):
    id: int
    status: str


class AddedView(BaseModel):
    repository: RepositoryView
    analysis: StartedView


class AgainView(BaseModel):
    analysis: StartedView


class LatestView(BaseModel):
    id: int
    status: str
    progress: int
    step: str
    error: str | None
    requested_at: str
    finished_at: str | None


Scores = dict[str, int | None]


class EntryView(RepositoryView):
    followed_at: str
    analysis: LatestView | None
    scores: Scores | None
    as_of: str | None


class ListView(BaseModel):
    repositories: list[EntryView]


class PastView(BaseModel):
    analysis_id: int
    as_of: str
    scores: Scores


class WholeView(EntryView):
    report: dict[str, Any] | None
    history: list[PastView]


class AnalysisView(BaseModel):
    id: int
    repository_id: int
    status: str
    progress: int
    step: str
    error: str | None
    report: dict[str, Any] | None


class ComparedView(RepositoryView):
    report: dict[str, Any] | None


class ComparisonView(BaseModel):
    repositories: list[ComparedView]


@blueprint.post("/repositories")
@operation("Follow a repository, and analyse it", body=AddBody, returns={202: AddedView}, errors=(401, 429))
@login_required
def add(body: AddBody) -> Response:
    repository, analysis = service().add(require_user().id, body.url)
    return answer(AddedView(repository=_repository(repository), analysis=_started(analysis)), 202)


@blueprint.get("/repositories")
@operation("The repositories that you follow", returns={200: ListView}, errors=(401,))
@login_required
def list_repositories() -> Response:
    return answer(ListView(repositories=[EntryView(**_entry(entry)) for entry in service().list(require_user().id)]))


@blueprint.get("/repositories/compare")
@operation("Reports side by side", query=CompareQuery, returns={200: ComparisonView}, errors=(401, 404))
@login_required
def compare(query: CompareQuery) -> Response:
    ids = list(dict.fromkeys(int(number) for number in query.ids.split(",")))
    found = service().compare(require_user().id, ids)
    return answer(
        ComparisonView(repositories=[ComparedView(id=one.id, url=one.url, name=one.name, report=one.report) for one in found])
    )


@blueprint.get("/repositories/<id:repository_id>")
@operation("A repository, with its report and its history", returns={200: WholeView}, errors=(401, 404))
@login_required
def get(repository_id: int) -> Response:
    entry = service().get(require_user().id, repository_id)
    return answer(WholeView(**_entry(entry), report=entry.report, history=[_past(past) for past in entry.history]))


@blueprint.delete("/repositories/<id:repository_id>")
@operation("Stop following a repository", returns={204: None}, errors=(401, 404))
@login_required
def unfollow(repository_id: int) -> Response:
    service().unfollow(require_user().id, repository_id)
    return no_content()


@blueprint.post("/repositories/<id:repository_id>/analyses")
@operation("Analyse a repository anew", returns={202: AgainView}, errors=(401, 404, 429))
@login_required
def analyse(repository_id: int) -> Response:
    return answer(AgainView(analysis=_started(service().analyse(require_user().id, repository_id))), 202)


@blueprint.get("/analyses/<id:analysis_id>")
@operation("An analysis, with its report if it succeeded", returns={200: AnalysisView}, errors=(401, 404))
@login_required
def analysis(analysis_id: int) -> Response:
    found = service().analysis(require_user().id, analysis_id)
    return answer(AnalysisView(**found.analysis.state, error=found.analysis.error, report=found.report))


@blueprint.delete("/analyses/<id:analysis_id>")
@operation("Cancel an analysis that nobody else waits for", returns={202: StartedView}, errors=(401, 404, 409))
@login_required
def cancel(analysis_id: int) -> Response:
    return answer(_started(service().cancel(require_user().id, analysis_id)), 202)


def service() -> Repositories:
    return extension(Repositories, "repositories")


def _repository(repository: Repository) -> RepositoryView:
    return RepositoryView(**vars(repository))


def _started(analysis: Analysis) -> StartedView:
    return StartedView(id=analysis.id, status=analysis.status)


def _past(past: Past) -> PastView:
    return PastView(analysis_id=past.analysis_id, as_of=iso(past.as_of), scores=past.scores)


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "url": entry.url,
        "name": entry.name,
        "followed_at": iso(entry.followed_at),
        "analysis": _latest(entry.analysis) if entry.analysis else None,
        "scores": entry.scores,
        "as_of": iso(entry.as_of) if entry.as_of else None,
    }


def _latest(analysis: Analysis) -> LatestView:
    return LatestView(
        id=analysis.id,
        status=analysis.status,
        progress=analysis.progress,
        step=analysis.step,
        error=analysis.error,
        requested_at=iso(analysis.requested_at),
        finished_at=iso(analysis.finished_at) if analysis.finished_at else None,
    )
