"""The pages of repositories: the list, a report and a comparison."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from flask import Response as FlaskResponse
from flask import current_app, json, redirect, request, url_for
from werkzeug import Response

from app.analysis import verdict
from app.analytics import tracking
from app.analytics.catalogue import REPORT_VIEWED
from app.auth.guards import current_user, log_action, require_user
from app.core.errors import NotFound, Problem
from app.core.extensions import extension
from app.http.addresses import public_address
from app.notifications.service import TYPES
from app.repositories.service import MAX_COMPARED, FollowedRepository, Repositories
from app.repositories.sharing import Sharing
from app.web import comparison, forms, reports
from app.web.pages import SEE_OTHER, blueprint, current_notice, inbox, mark_opened, render, sign_in_required

IN_PROGRESS = ("queued", "running")
SAMPLE_SCORES = (88, 45, 24, 63, 52, 91)  # radar chart of the landing page
SAMPLE_BANDS = {name: verdict.band(score) for name, score in zip(reports.AREAS, SAMPLE_SCORES, strict=True)}

ORDERS = {"added": "Last added", "name": "Name", "score": "Score, best first", "analysed": "Last analysed"}
SORT_KEYS: dict[str, Callable[[FollowedRepository], Any]] = {
    "added": lambda entry: (-entry.followed_at.timestamp(), -entry.id),
    "name": lambda entry: (entry.name.casefold(), entry.id),
    # Scores by older formulas, which cannot be compared with the others, follow them.
    "score": lambda entry: (_overall(entry) < 0, -(entry.formula_version or 0), -_overall(entry), entry.name.casefold()),
    "analysed": lambda entry: (-entry.as_of.timestamp() if entry.as_of else 0, entry.id),
}

repository_route = "/repositories/<id:repository_id>"


@blueprint.get("/")
def home() -> Response:
    if current_user() is None:
        return render("landing.html", sample=SAMPLE_SCORES, bands=SAMPLE_BANDS, notice=current_notice())
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
    sharing().share(require_user().id, repository_id)
    log_action("share.created", repository=repository_id)
    return _redirect_to(repository_id, anchor="sharing")


@blueprint.post(f"{repository_route}/share/stop")
@sign_in_required
def stop_sharing(repository_id: int) -> Response:
    sharing().stop(require_user().id, repository_id)
    log_action("share.ended", repository=repository_id)
    return _redirect_to(repository_id, done="unshared")


@blueprint.get(f"{repository_route}/report.json")
@sign_in_required
def export(repository_id: int) -> Response:
    entry = repositories().get(require_user().id, repository_id)
    if entry.report is None:
        raise NotFound("There is no report about this repository yet.")
    document = {"repository": {"name": entry.name, "url": entry.url}, "report": entry.report}
    name = re.sub(r"[^\w.-]+", "-", entry.name, flags=re.ASCII).strip("-.") or "repository"
    headers = {"Content-Disposition": f'attachment; filename="reporadar-{name}.json"'}
    return FlaskResponse(json.dumps(document, indent=2), headers=headers, content_type="application/json")


@blueprint.get("/compare")
@sign_in_required
def compare() -> Response:
    """Accept `ids=1,2` from links and `ids=1&ids=2` from the form; `differences=1` leaves out rows whose values are all equal."""
    wanted = list(dict.fromkeys(re.findall(r"\d+", ",".join(request.args.getlist("ids")))))
    followed = sorted(repositories().list(require_user().id), key=SORT_KEYS["name"])
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
    search, order = request.args.get("q", "").strip(), request.args.get("sort", "added")
    return render(
        "home.html",
        problem,
        entries=search_and_sort(followed, search, order),
        total=len(followed),
        url=url,
        search=search,
        order=order,
        orders=ORDERS,
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


def search_and_sort(entries: Sequence[FollowedRepository], search: str, order: str) -> list[FollowedRepository]:
    """Return the entries that contain all words of the search in their name or URL, in one of ORDERS."""
    words = search.casefold().split()
    found = [entry for entry in entries if all(word in f"{entry.name} {entry.url}".casefold() for word in words)]
    return sorted(found, key=SORT_KEYS.get(order, SORT_KEYS["added"]))


def _overall(entry: FollowedRepository) -> int:
    overall = (entry.scores or {}).get("overall")
    return -1 if overall is None else overall


def _redirect_to(repository_id: int, done: str | None = None, anchor: str | None = None) -> Response:
    return redirect(url_for("web.repository", repository_id=repository_id, done=done, _anchor=anchor), SEE_OTHER)
