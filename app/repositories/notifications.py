"""Which notifications an analysis causes: they depend on its report and on the report before it."""

from dataclasses import dataclass
from typing import Any

from app.repositories.store import Analysis, Repository

MIN_SCORE_CHANGE = 10  # points
MAX_ERROR_LENGTH = 500

Report = dict[str, Any]


@dataclass(frozen=True)
class NotificationDraft:
    """A notification without its recipients."""

    type: str
    title: str
    data: dict[str, Any]


def drafts_of_success(
    repository: Repository, analysis: Analysis, report: Report, previous: Report | None
) -> list[NotificationDraft]:
    about = {"repository_id": repository.id, "analysis_id": analysis.id, "name": repository.name}
    scores = _scores(report)
    overall = scores["overall"]
    reason = "its history is cut off" if report["commits"] else "it has no commits"
    result = f"no score, because {reason}" if overall is None else f"overall score {overall} of 100"
    title = f"Analysis of {repository.name} finished: {result}"
    drafts = [NotificationDraft("analysis.succeeded", title, {**about, "scores": scores})]
    if previous is None:
        return drafts
    is_comparable = report.get("formula_version") == previous.get("formula_version")
    if is_comparable and (changes := _changes(_scores(previous), scores)):
        title = f"{repository.name}: {_describe(changes)}"
        drafts.append(NotificationDraft("score.changed", title, {**about, "changes": changes}))
    new, old = report["releases"], previous["releases"]
    # After the deletion of a release, the latest one is older than before. UTC timestamps can be compared as text.
    if new["latest"] and new["latest"] != old["latest"] and (new["latest_at"] or "") >= (old["latest_at"] or ""):
        data = {**about, "release": new["latest"], "released_at": new["latest_at"]}
        drafts.append(NotificationDraft("release.found", f"{repository.name} released {new['latest']}", data))
    return drafts


def drafts_of_failure(repository: Repository, analysis: Analysis, error: str) -> list[NotificationDraft]:
    data = {
        "repository_id": repository.id,
        "analysis_id": analysis.id,
        "name": repository.name,
        "error": error[:MAX_ERROR_LENGTH],
    }
    return [NotificationDraft("analysis.failed", f"Analysis of {repository.name} failed", data)]


def _scores(report: Report) -> dict[str, int | None]:
    return {name: result["score"] for name, result in report["scores"].items()}


def _changes(before: dict[str, int | None], after: dict[str, int | None]) -> list[dict[str, Any]]:
    return [
        {"score": name, "before": before[name], "after": score}
        for name, score in after.items()
        if score is not None and (old := before.get(name)) is not None and abs(score - old) >= MIN_SCORE_CHANGE
    ]


def _describe(changes: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{change['score']} {'rose' if change['after'] > change['before'] else 'fell'}"
        f" from {change['before']} to {change['after']}"
        for change in changes
    )
