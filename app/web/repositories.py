"""The pages of repositories: the list, a report and a comparison."""

import re
from typing import Any

from flask import Response as FlaskResponse
from flask import current_app, redirect, request, url_for
from werkzeug import Response

from app.analytics import tracking
from app.analytics.catalogue import REPORT_VIEWED
from app.auth.guards import client, current_user, require_user
from app.core.errors import NotFound, Problem
from app.core.extensions import extension
from app.http.addresses import public_address
from app.http.api import parse_id
from app.notifications.service import TYPES
from app.repositories.service import MAX_COMPARED, Repositories
from app.repositories.sharing import Sharing
from app.web import comparison, forms, listing, reports
from app.web.example import example_context
from app.web.listing import OTHER_KEYS, ListFilter
from app.web.pages import SEE_OTHER, blueprint, current_notice, inbox, mark_opened, render, sign_in_required

IN_PROGRESS = ("queued", "running")

repository_route = "/repositories/<id:repository_id>"


@blueprint.get("/")
def home() -> Response:
    if current_user() is None:
        return render("landing.html", notice=current_notice(), **example_context())
    inbox()
    return _render_list(notice=current_notice())


@blueprint.post("/")
@sign_in_required
def add_repository() -> Response:
    url = forms.text("url").strip()
    try:
        added, _ = repositories().add(require_user().id, url)
    except Problem as problem:
        return _render_list(forms.correctable(problem), url=url)
    return _redirect_to(added.id)


@blueprint.get(repository_route)
@sign_in_required
def repository(repository_id: int) -> Response:
    mark_opened("repository_id", repository_id)
    return _render_report(repository_id, notice=current_notice())


@blueprint.post(f"{repository_route}/analyses")
@sign_in_required
def analyse_again(repository_id: int) -> Response:
    try:
        repositories().analyse(require_user().id, repository_id)
    except Problem as problem:
        return _render_report(repository_id, forms.correctable(problem))
    return _redirect_to(repository_id)


@blueprint.post(f"{repository_route}/analyses/<id:analysis_id>/cancel")
@sign_in_required
def cancel(repository_id: int, analysis_id: int) -> Response:
    try:
        repositories().cancel(require_user().id, analysis_id)
    except Problem as problem:
        return _render_report(repository_id, forms.correctable(problem))
    return _redirect_to(repository_id, done="cancelled")


@blueprint.post(f"{repository_route}/unfollow")
@sign_in_required
def unfollow(repository_id: int) -> Response:
    repositories().unfollow(require_user().id, repository_id)
    return redirect(url_for("web.home", done="unfollowed"), SEE_OTHER)


@blueprint.post(f"{repository_route}/subscription")
@sign_in_required
def subscribe_to_repository(repository_id: int) -> Response:
    types, inherit = forms.notification_types()
    repositories().subscribe(require_user().id, repository_id, types, inherit=inherit)
    return _redirect_to(repository_id, done="subscription")


@blueprint.post(f"{repository_route}/share")
@sign_in_required
def share(repository_id: int) -> Response:
    sharing().share(require_user().id, repository_id, client().address)
    return _redirect_to(repository_id, anchor="sharing")


@blueprint.post(f"{repository_route}/share/stop")
@sign_in_required
def stop_sharing(repository_id: int) -> Response:
    sharing().stop(require_user().id, repository_id, client().address)
    return _redirect_to(repository_id, done="unshared")


@blueprint.post(f"{repository_route}/tags")
@sign_in_required
def tag(repository_id: int) -> Response:
    try:
        repositories().tag(require_user().id, repository_id, [text for text in forms.text("tags").split(",") if text.strip()])
    except Problem as problem:
        return _render_report(repository_id, forms.correctable(problem), tags=forms.text("tags"))
    return _redirect_to(repository_id, done="tags")


@blueprint.post("/tags")
@sign_in_required
def add_tag() -> Response:
    """Add a tag to the repositories that are selected on the list, and return to the list as it was filtered."""
    ids = [parse_id(number) for number in request.form.getlist("ids") if number.isdecimal()]
    try:
        repositories().add_tag(require_user().id, ids, forms.text("tag"))
    except Problem as problem:
        return _render_list(forms.correctable(problem))
    return redirect(forms.local_path(request.args.get("next", "")), SEE_OTHER)


@blueprint.get(f"{repository_route}/report.json")
@sign_in_required
def export(repository_id: int) -> Response:
    entry = repositories().get(require_user().id, repository_id)
    if entry.report is None:
        raise NotFound("There is no report about this repository yet.")
    name = re.sub(r"[^\w.-]+", "-", entry.name, flags=re.ASCII).strip("-.") or "repository"
    headers = {"Content-Disposition": f'attachment; filename="reporadar-{name}.json"'}
    return FlaskResponse(reports.as_json(entry.name, entry.url, entry.report), headers=headers, content_type="application/json")


@blueprint.get("/compare")
@sign_in_required
def compare() -> Response:
    """Accept `ids=1,2` from links and `ids=1&ids=2` from the form; `differences=1` leaves out rows whose values are all equal."""
    wanted = list(dict.fromkeys(re.findall(r"\d+", ",".join(request.args.getlist("ids")))))
    followed = sorted(repositories().list(require_user().id), key=OTHER_KEYS["name"])
    by_id = {str(entry.id): entry for entry in followed}
    known = [by_id[number] for number in wanted if number in by_id]
    chosen = repositories().compare(require_user().id, [entry.id for entry in known[:MAX_COMPARED]]) if known else []
    comparable, outdated = comparison.comparable(chosen)
    rows = comparison.side_by_side([entry.report for entry in comparable]) if len(comparable) > 1 else []
    only_differences = request.args.get("differences") == "1"
    return render(
        "compare.html",
        followed=followed,
        chosen=chosen,
        comparable=comparable,
        outdated=outdated,
        rows=[row for row in rows if row.differs or not only_differences],
        only_differences=only_differences,
        too_many=len(known) > MAX_COMPARED,
        weekly_chart=reports.weekly_chart,
        bands=reports.bands,
    )


def sharing() -> Sharing:
    return extension(Sharing, "sharing")


def repositories() -> Repositories:
    return extension(Repositories, "repositories")


def _render_list(problem: Problem | None = None, url: str = "", **context: Any) -> Response:
    followed = repositories().list(require_user().id)
    chosen = ListFilter(*(request.args.get(name, "").strip() for name in ("q", "tag", "band", "sort")))
    return render(
        "home.html",
        problem,
        entries=chosen.apply(followed),
        total=len(followed),
        url=url,
        chosen=chosen,
        listing=listing,
        tags=listing.tags_of(followed),
        in_progress=IN_PROGRESS,
        band=reports.overall_band,
        local_allowed=bool(current_app.config["REPORADAR"].repository_roots),
        **context,
    )


def _render_report(repository_id: int, problem: Problem | None = None, **context: Any) -> Response:
    entry = repositories().get(require_user().id, repository_id)
    if entry.report and (tracking.is_visit() or request.headers.get("X-Awaited") == "report"):
        tracking.record(REPORT_VIEWED)
    if entry.report:
        context |= reports.context(entry.report, entry.history)
    return render(
        "repository.html",
        problem,
        entry=entry,
        shared=_shared(repository_id),
        subscription=repositories().subscription(require_user().id, repository_id),
        notification_types=TYPES,
        in_progress=IN_PROGRESS,
        **context,
    )


def _shared(repository_id: int) -> dict[str, str] | None:
    """Return the address and the path of the user's link to a report, or None if they do not share it."""
    key = sharing().key_of(require_user().id, repository_id)
    return {"address": public_address("shared.report", key=key), "path": url_for("shared.report", key=key)} if key else None


def _redirect_to(repository_id: int, done: str | None = None, anchor: str | None = None) -> Response:
    return redirect(url_for("web.repository", repository_id=repository_id, done=done, _anchor=anchor), SEE_OTHER)
