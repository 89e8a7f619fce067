"""The report card of a rehearsal, as text and as JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

from app.operations.rehearsal import checks
from app.operations.rehearsal.checks import CheckResult, Status
from app.operations.rehearsal.measurements import Measurements
from app.operations.rehearsal.stop_checks import stops

MARKS = {Status.GREEN: "ok", Status.RED: "RED", Status.NOT_JUDGED: "BUSY"}


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


def verdict(results: Iterable[CheckResult]) -> Status:
    """Return RED if any line is red, otherwise NOT_JUDGED if any line is not judged, otherwise OK."""
    found = {result.status for result in results}
    return next((status for status in (Status.RED, Status.NOT_JUDGED) if status in found), Status.GREEN)


def as_text(measured: Measurements, results: Sequence[CheckResult]) -> str:
    width = max(len(result.name) for result in results)
    lines = [
        f"Rehearsal of {measured.url}, {measured.instances} instances, {_seconds(measured):.0f} s: {verdict(results).upper()}",
        "",
    ]
    for result in results:
        lines.append(f"  {MARKS[result.status]:4}  {result.name:{width}}  {result.text}")
        if not result.ok:
            lines.append(f"        {'':{width}}  -> {_meaning(measured, result)}")
    return "\n".join([*lines, *(f"  -     {remark}" for remark in measured.remarks)])


def as_data(measured: Measurements, results: Sequence[CheckResult]) -> dict[str, Any]:
    return {
        "verdict": verdict(results),
        "url": measured.url,
        "instances": measured.instances,
        "seconds": round(_seconds(measured), 1),
        "lines": [
            {"name": one.name, "ok": one.ok, "status": one.status, "text": one.text, "meaning": _meaning(measured, one)}
            for one in results
        ],
        "remarks": measured.remarks,
    }


def _meaning(measured: Measurements, result: CheckResult) -> str:
    if result.status != Status.NOT_JUDGED:
        return result.meaning
    load = measured.worst_load
    return f"not judged: the machine is too busy (control process {load.slowdown:.1f} x, stall {load.stall:.2f} s)"


def _seconds(measured: Measurements) -> float:
    return measured.phases[-1].ended - measured.phases[0].started if measured.phases else 0.0
