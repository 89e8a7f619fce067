"""The report card of a rehearsal, as text and as JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

from app.operations.rehearsal import checks
from app.operations.rehearsal.checks import CheckResult
from app.operations.rehearsal.measurements import Measurements
from app.operations.rehearsal.stop_checks import stops


def check(measured: Measurements) -> list[CheckResult]:
    if not measured.phases:
        return [checks.interruption(measured)]
    return [
        *checks.completeness(measured),
        *checks.requests(measured),
        checks.longest_gap(measured),
        *checks.redis(measured),
        *checks.notifications(measured),
        *checks.analytics(measured),
        checks.signed_out(measured),
        checks.logouts(measured),
        checks.reconnections(measured),
        *checks.balance(measured),
        *stops(measured),
    ]


def is_green(results: Iterable[CheckResult]) -> bool:
    return all(result.ok for result in results)


def as_text(measured: Measurements, results: Sequence[CheckResult]) -> str:
    verdict = "GREEN" if is_green(results) else "RED"
    width = max(len(result.name) for result in results)
    lines = [f"Rehearsal of {measured.url}, {measured.instances} instances, {_seconds(measured):.0f} s: {verdict}", ""]
    for result in results:
        lines.append(f"  {'ok ' if result.ok else 'RED'}  {result.name:{width}}  {result.text}")
        if not result.ok:
            lines.append(f"       {'':{width}}  -> {result.meaning}")
    return "\n".join([*lines, *(f"  -    {remark}" for remark in measured.remarks)])


def as_data(measured: Measurements, results: Sequence[CheckResult]) -> dict[str, Any]:
    return {
        "verdict": "green" if is_green(results) else "red",
        "url": measured.url,
        "instances": measured.instances,
        "seconds": round(_seconds(measured), 1),
        "lines": [{"name": one.name, "ok": one.ok, "text": one.text, "meaning": one.meaning} for one in results],
        "remarks": measured.remarks,
    }


def _seconds(measured: Measurements) -> float:
    return measured.phases[-1].ended - measured.phases[0].started if measured.phases else 0.0
