"""The report card of a rehearsal: from measurements to lines, and from lines to text or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from app.operations.rehearsal import judgement
from app.operations.rehearsal.judgement import Line
from app.operations.rehearsal.measurements import Measurements
from app.operations.rehearsal.stops import stops


def judge(measured: Measurements) -> list[Line]:
    if not measured.phases:
        return [judgement.interruption(measured)]
    return [
        *judgement.completeness(measured),
        *judgement.requests(measured),
        judgement.longest_gap(measured),
        *judgement.redis(measured),
        *judgement.notifications(measured),
        *_analytics(measured),
        judgement.signed_out(measured),
        judgement.logouts(measured),
        judgement.reconnections(measured),
        *stops(measured),
    ]


def _analytics(measured: Measurements) -> list[Line]:
    accounting = measured.accounting
    return [judgement.events(measured, accounting), judgement.opt_outs(measured, accounting)] if accounting else []


def is_green(lines: Iterable[Line]) -> bool:
    return all(line.ok for line in lines)


def as_text(measured: Measurements, lines: Sequence[Line]) -> str:
    verdict = "GREEN" if is_green(lines) else "RED"
    width = max(len(line.name) for line in lines)
    shown = [f"Rehearsal of {measured.url}, {measured.instances} instances, {_seconds(measured):.0f} s: {verdict}", ""]
    for line in lines:
        shown.append(f"  {'ok ' if line.ok else 'RED'}  {line.name:{width}}  {line.text}")
        if not line.ok:
            shown.append(f"       {'':{width}}  -> {line.meaning}")
    return "\n".join([*shown, *(f"  -    {remark}" for remark in measured.remarks)])


def as_data(measured: Measurements, lines: Sequence[Line]) -> dict[str, Any]:
    return {
        "verdict": "green" if is_green(lines) else "red",
        "url": measured.url,
        "instances": measured.instances,
        "seconds": round(_seconds(measured), 1),
        "lines": [{"name": line.name, "ok": line.ok, "text": line.text, "meaning": line.meaning} for line in lines],
        "remarks": measured.remarks,
    }


def _seconds(measured: Measurements) -> float:
    return measured.phases[-1].ended - measured.phases[0].started if measured.phases else 0.0
