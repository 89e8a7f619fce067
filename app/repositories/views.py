"""The JSON API of followed repositories and their analyses: `/api/repositories` and `/api/analyses`."""

from typing import Any, Literal

from flask import Blueprint, Response
from pydantic import BaseModel, Field

from app.auth.guards import client, login_required, require_user
from app.core.extensions import extension
from app.core.timestamps import iso
from app.http.addresses import public_address
from app.http.api import Body, Query, json_response, no_content, operation
from app.repositories.found_addresses import MAX_TEXT_LENGTH
from app.repositories.service import NEW, Analysis, FollowedRepository, ImportResult, Repositories, Repository
from app.repositories.sharing import Sharing
from app.repositories.tags import MAX_TAG_LENGTH, MAX_TAGS

blueprint = Blueprint("repositories", __name__, url_prefix="/api")


class AddBody(Body):
    url: str = Field(min_length=1, max_length=2000)


class ImportBody(Body):
    text: str = Field(max_length=MAX_TEXT_LENGTH, description="Any text: a list of addresses, a README, a go.mod, a .gitmodules.")


class CompareQuery(Query):
    ids: str = Field(pattern=r"^[0-9]{1,18}(,[0-9]{1,18}){0,3}$", description="One to four repository IDs, separated by commas.")


class RepositoryView(BaseModel):
    id: int
    url: str
    name: str


class AnalysisStatusView(BaseModel):
    id: int
    status: str


class AddedRepositoryView(BaseModel):
    repository: RepositoryView
    analysis: AnalysisStatusView


class ImportResultView(BaseModel):
    address: str
    status: Literal["added", "known", "refused"]
    repository: RepositoryView | None
    reason: str | None


class ImportResultsView(BaseModel):
    results: list[ImportResultView]


class StartedAnalysisView(BaseModel):
    analysis: AnalysisStatusView


class LatestAnalysisView(BaseModel):
    id: int
    status: str
    progress: int
    step: str
    error: str | None
    requested_at: str
    finished_at: str | None


Scores = dict[str, int | None]


class FollowedRepositoryView(RepositoryView):
    followed_at: str
    analysis: LatestAnalysisView | None
    scores: Scores | None
    formula_version: int | None
    as_of: str | None
    tags: list[str]


class RepositoryListView(BaseModel):
    repositories: list[FollowedRepositoryView]


class PastAnalysisView(BaseModel):
    analysis_id: int
    as_of: str
    scores: Scores
    formula_version: int


class RepositoryDetailView(FollowedRepositoryView):
    report: dict[str, Any] | None
    history: list[PastAnalysisView]


class AnalysisView(BaseModel):
    id: int
    repository_id: int
    status: str
    progress: int
    step: str
    error: str | None
    report: dict[str, Any] | None


class RepositoryReportView(RepositoryView):
    report: dict[str, Any] | None


class RepositorySubscriptionView(BaseModel):
    types: dict[str, bool]
    inherited: bool


class RepositorySubscriptionBody(Body):
    types: dict[str, bool] = Field(default_factory=dict, max_length=20, description="The types to switch; others stay.")
    inherited: bool = Field(False, description="Return to your default, unless one of the types differs from it.")


class TagsBody(Body):
    tags: list[str] = Field(
        max_length=100, description=f"Up to {MAX_TAGS} tags of 1 to {MAX_TAG_LENGTH} characters, without commas."
    )


class TagsView(BaseModel):
    tags: list[str]


class ShareView(BaseModel):
    url: str


class ComparisonView(BaseModel):
    repositories: list[RepositoryReportView]


@blueprint.post("/repositories")
@operation("Follow a repository and analyse it", body=AddBody, returns={202: AddedRepositoryView}, errors=(401, 429))
@login_required
def add(body: AddBody) -> Response:
    repository, analysis = service().add(require_user().id, body.url)
    return json_response(AddedRepositoryView(repository=_repository(repository), analysis=_status(analysis)), 202)


@blueprint.post("/repositories/import")
@operation(
    "Follow the repositories whose addresses are in a text", body=ImportBody, returns={200: ImportResultsView}, errors=(401,)
)
@login_required
def import_text(body: ImportBody) -> Response:
    """At most 200 addresses are taken from the text, each repository once."""
    return json_response(
        ImportResultsView(results=[_import_result(one) for one in service().import_from(require_user().id, body.text)])
    )


@blueprint.get("/repositories")
@operation("List the repositories that you follow", returns={200: RepositoryListView}, errors=(401,))
@login_required
def list_repositories() -> Response:
    return json_response(RepositoryListView(repositories=[_followed(found) for found in service().list(require_user().id)]))


@blueprint.get("/repositories/compare")
@operation("Get the reports of several repositories", query=CompareQuery, returns={200: ComparisonView}, errors=(401, 404))
@login_required
def compare(query: CompareQuery) -> Response:
    ids = list(dict.fromkeys(int(number) for number in query.ids.split(",")))
    found = service().compare(require_user().id, ids)
    compared = [RepositoryReportView(id=one.id, url=one.url, name=one.name, report=one.report) for one in found]
    return json_response(ComparisonView(repositories=compared))


@blueprint.get("/repositories/<id:repository_id>")
@operation("Get a repository with its report and history", returns={200: RepositoryDetailView}, errors=(401, 404))
@login_required
def get(repository_id: int) -> Response:
    found = service().get(require_user().id, repository_id)
    history = [
        PastAnalysisView(
            analysis_id=past.analysis_id, as_of=iso(past.as_of), scores=past.scores, formula_version=past.formula_version
        )
        for past in found.history
    ]
    return json_response(RepositoryDetailView(**vars(_followed(found)), report=found.report, history=history))


@blueprint.delete("/repositories/<id:repository_id>")
@operation("Stop following a repository", returns={204: None}, errors=(401, 404))
@login_required
def unfollow(repository_id: int) -> Response:
    service().unfollow(require_user().id, repository_id)
    return no_content()


@blueprint.get("/repositories/<id:repository_id>/subscription")
@operation("Get which notifications you get about a repository", returns={200: RepositorySubscriptionView}, errors=(401, 404))
@login_required
def subscription(repository_id: int) -> Response:
    return json_response(RepositorySubscriptionView(**vars(service().subscription(require_user().id, repository_id))))


@blueprint.put("/repositories/<id:repository_id>/subscription")
@operation(
    "Choose which notifications you get about a repository",
    body=RepositorySubscriptionBody,
    returns={200: RepositorySubscriptionView},
    errors=(401, 404),
)
@login_required
def subscribe(repository_id: int, body: RepositorySubscriptionBody) -> Response:
    chosen = service().subscribe(require_user().id, repository_id, body.types, inherit=body.inherited)
    return json_response(RepositorySubscriptionView(**vars(chosen)))


@blueprint.put("/repositories/<id:repository_id>/tags")
@operation("Replace your tags of a repository", body=TagsBody, returns={200: TagsView}, errors=(401, 404))
@login_required
def tag(repository_id: int, body: TagsBody) -> Response:
    return json_response(TagsView(tags=list(service().tag(require_user().id, repository_id, body.tags))))


@blueprint.put("/repositories/<id:repository_id>/share")
@operation("Share a report under a link for everyone", returns={200: ShareView}, errors=(401, 404))
@login_required
def share(repository_id: int) -> Response:
    """The link shows the report; with `.json` the report as JSON, and with `/badge.svg` a badge."""
    key = sharing().share(require_user().id, repository_id, client().address)
    return json_response(ShareView(url=public_address("shared.report", key=key)))


@blueprint.delete("/repositories/<id:repository_id>/share")
@operation("End the link under which you share a report", returns={204: None}, errors=(401, 404))
@login_required
def stop_sharing(repository_id: int) -> Response:
    sharing().stop(require_user().id, repository_id, client().address)
    return no_content()


@blueprint.post("/repositories/<id:repository_id>/analyses")
@operation("Analyse a repository again", returns={202: StartedAnalysisView}, errors=(401, 404, 429))
@login_required
def analyse(repository_id: int) -> Response:
    return json_response(StartedAnalysisView(analysis=_status(service().analyse(require_user().id, repository_id))), 202)


@blueprint.get("/analyses/<id:analysis_id>")
@operation("Get an analysis, with its report if it succeeded", returns={200: AnalysisView}, errors=(401, 404))
@login_required
def analysis(analysis_id: int) -> Response:
    found = service().analysis(require_user().id, analysis_id)
    return json_response(AnalysisView(**found.analysis.state, error=found.analysis.error, report=found.report))


@blueprint.delete("/analyses/<id:analysis_id>")
@operation("Cancel an analysis that no other user waits for", returns={202: AnalysisStatusView}, errors=(401, 404, 409))
@login_required
def cancel(analysis_id: int) -> Response:
    return json_response(_status(service().cancel(require_user().id, analysis_id)), 202)


def service() -> Repositories:
    return extension(Repositories, "repositories")


def sharing() -> Sharing:
    return extension(Sharing, "sharing")


def _repository(repository: Repository) -> RepositoryView:
    return RepositoryView(**vars(repository))


def _import_result(result: ImportResult) -> ImportResultView:
    assert result.status != NEW
    repository = _repository(result.repository) if result.repository else None
    return ImportResultView(address=result.address, status=result.status, repository=repository, reason=result.reason)


def _status(analysis: Analysis) -> AnalysisStatusView:
    return AnalysisStatusView(id=analysis.id, status=analysis.status)


def _followed(repository: FollowedRepository) -> FollowedRepositoryView:
    return FollowedRepositoryView(
        id=repository.id,
        url=repository.url,
        name=repository.name,
        followed_at=iso(repository.followed_at),
        analysis=_latest(repository.analysis) if repository.analysis else None,
        scores=repository.scores,
        formula_version=repository.formula_version,
        as_of=iso(repository.as_of) if repository.as_of else None,
        tags=repository.tags,
    )


def _latest(analysis: Analysis) -> LatestAnalysisView:
    return LatestAnalysisView(
        id=analysis.id,
        status=analysis.status,
        progress=analysis.progress,
        step=analysis.step,
        error=analysis.error,
        requested_at=iso(analysis.requested_at),
        finished_at=iso(analysis.finished_at) if analysis.finished_at else None,
    )
