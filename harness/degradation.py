"""The table in docs/degradation.md: what works in which state. A test creates the states and checks the cells."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

WORKS, READ_ONLY, DELAYED, UNAVAILABLE = "works", "read-only", "delayed", "503"
WORDS = (WORKS, READ_ONLY, DELAYED, UNAVAILABLE)
HEALTH = "health"  # the feature whose cells name the status that is reported, too
STATUSES = ("pass", "warn", "fail")


class Cell(NamedTuple):
    """The behaviour of a feature in a state. `status` is the one that `/health` reports, and empty for all other features."""

    word: str
    status: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.status})" if self.status else self.word


Row = dict[str, Cell]  # by feature
Table = dict[str, Row]  # by state


def parse(text: str, states: Collection[str], features: Collection[str]) -> Table:
    """Return the table of a Markdown text. Raise ValueError unless it has exactly these states, features and known words."""
    header, separator, *lines = _table_lines(text)
    names = _cells(header)[1:]
    if not all(re.fullmatch(r":?-+:?", cell) for cell in _cells(separator)):
        raise ValueError("the line below the header is not a separator")
    _require_same("features", names, features)
    rows = [_cells(line) for line in lines]
    _require_same("states", [row[0] for row in rows], states)
    return {row[0]: _parse_row(row, names) for row in rows}


def _table_lines(text: str) -> list[str]:
    lines = iter(text.splitlines())
    found = next((line for line in lines if line.startswith("| state |")), None)
    if found is None:
        raise ValueError('there is no table with the first column "state"')
    table = [found]
    for line in lines:
        if not line.startswith("|"):
            break
        table.append(line)
    if len(table) < 3:
        raise ValueError("the table has no rows")
    return table


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _require_same(what: str, found: Iterable[str], expected: Collection[str]) -> None:
    names = list(found)
    faults = [f"{name} is not known" for name in names if name not in expected]
    faults += [f"{name} is missing" for name in expected if name not in names]
    faults += [f"{name} occurs twice" for name in sorted(set(names)) if names.count(name) > 1]
    if faults:
        raise ValueError(f"{what}: {', '.join(faults)}")


def _parse_row(row: list[str], features: list[str]) -> Row:
    state, *cells = row
    if len(cells) != len(features):
        raise ValueError(f"{state}: {len(cells)} cells for {len(features)} features")
    return {name: _parse_cell(cell, f"{state}, {name}", name == HEALTH) for name, cell in zip(features, cells, strict=True)}


def _parse_cell(text: str, where: str, is_health: bool) -> Cell:
    word, _, rest = text.partition(" (")
    status = rest.removesuffix(")")
    if word not in WORDS:
        raise ValueError(f"{where}: {text!r} is not one of {', '.join(WORDS)}")
    if is_health and (status not in STATUSES or not rest.endswith(")")):
        raise ValueError(f"{where}: {text!r} does not end with (pass), (warn) or (fail)")
    if not is_health and rest:
        raise ValueError(f"{where}: {text!r} has a word too many")
    return Cell(word, status)
