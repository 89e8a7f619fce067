"""Writes a report as text for a terminal, or as Markdown for the summary of a CI job."""

import re
from collections.abc import Iterator
from typing import Any

OVERALL = "overall"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def as_text(url: str, report: dict[str, Any]) -> str:
    """Return the headline, the overall score, and the other scores, weakest first."""
    lines = list(_introduction(url, report))
    for name in (OVERALL, *_weakest_first(report)):
        lines += ["", _line(name, report)]
        lines += [f"    {sentence}" for sentence in report["scores"][name]["evidence"]]
        if advice := report["scores"][name].get("advice"):
            lines.append(f"    To raise it: {advice}")
    return "".join(f"{_printable(line)}\n" for line in lines)


def as_markdown(url: str, report: dict[str, Any]) -> str:
    """Return the same as `as_text`, as a heading and a table. Nothing in the report is read as Markdown or HTML."""
    name, *paragraphs = _introduction(url, report)
    lines = [f"## {_escape(name)}", ""]
    for paragraph in paragraphs:
        lines += [_escape(paragraph), ""]
    lines += ["| score | points | | evidence | to raise it |", "|---|---|---|---|---|"]
    for name in (OVERALL, *_weakest_first(report)):
        score = report["scores"][name]
        cells = [name.capitalize(), _points(score), _band(name, report), " ".join(score["evidence"]), score.get("advice") or ""]
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(lines) + "\n"


def _introduction(url: str, report: dict[str, Any]) -> Iterator[str]:
    yield url
    head = report["head"]
    yield f"{f'Commit {head[:12]}' if head else 'No commits'}, as of {report['as_of']}"
    if report["is_shallow"]:
        yield "The history of this repository is cut off. Fetch all of it to get every score."
    if headline := report.get("verdict", {}).get("headline"):
        yield headline


def _weakest_first(report: dict[str, Any]) -> list[str]:
    """Return the names of the scores except the overall one. Those without a score are last."""
    scores = {name: score["score"] for name, score in report["scores"].items() if name != OVERALL}
    return sorted(scores, key=lambda name: (scores[name] is None, scores[name]))


def _line(name: str, report: dict[str, Any]) -> str:
    return f"{name.capitalize():<15}{_points(report['scores'][name]):>3}  {_band(name, report)}".rstrip()


def _points(score: dict[str, Any]) -> str:
    return "–" if score["score"] is None else str(score["score"])


def _band(name: str, report: dict[str, Any]) -> str:
    return report.get("verdict", {}).get("bands", {}).get(name) or ""


def _printable(line: str) -> str:
    """Replace control characters, which names of files can contain and a terminal would interpret."""
    return "".join(character if character.isprintable() else "�" for character in line)


def _escape(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", _printable(text))
