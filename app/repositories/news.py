"""What there is to tell of an analysis: which notifications follow from a report, and from the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.repositories.store import Analysis, Repository

NOTABLE = 10  # points by which a score has to differ
MAX_ERROR = 500  # characters

Report = dict[str, Any]


@dataclass(frozen=True)
class News:
    """A notification, without whom it goes to."""

    type: str
    title: str
    data: dict[str, Any]


def of_success(repository: Repository, analysis: Analysis, report: Report, before: Report | None) -> list[News]:
    about = {"repository_id": repository.id, "analysis_id": analysis.id, "name": repository.name}
    scores = _scores(report)
    overall = scores["overall"]
    verdict = "there is nothing to judge yet" if overall is None else f"{overall} of 100"
    news = [News("analysis.succeeded", f"{repository.name} was analysed: {verdict}", {**about, "scores": scores})]
    if before is None:
        return news
    if changes := _changes(_scores(before), scores):
        news.append(News("score.changed", f"{repository.name}: {_in_words(changes)}", {**about, "changes": changes}))
    now, then = report["releases"], before["releases"]
    # A release that was withdrawn leaves an older one as the latest. Moments in UTC sort as texts.
    if now["latest"] and now["latest"] != then["latest"] and (now["latest_at"] or "") >= (then["latest_at"] or ""):
        data = {**about, "release": now["latest"], "released_at": now["latest_at"]}
        news.append(News("release.found", f"{repository.name} released {now['latest']}", data))
    return news


def of_failure(repository: Repository, analysis: Analysis, error: str) -> list[News]:
    about = {"repository_id": repository.id, "analysis_id": analysis.id, "name": repository.name, "error": error[:MAX_ERROR]}
    return [News("analysis.failed", f"The analysis of {repository.name} failed", about)]


def _scores(report: Report) -> dict[str, int | None]:
    return {name: judged["score"] for name, judged in report["scores"].items()}


def _changes(before: dict[str, int | None], after: dict[str, int | None]) -> list[dict[str, Any]]:
    return [
        {"score": name, "before": before[name], "after": score}
        for name, score in after.items()
        if score is not None and (old := before.get(name)) is not None and abs(score - old) >= NOTABLE
    ]


def _in_words(changes: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{change['score']} {'rose' if change['after'] > change['before'] else 'fell'}"
        f" from {change['before']} to {change['after']}"
        for change in changes
    )
