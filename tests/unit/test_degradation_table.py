"""The parser of the degradation table refuses whatever the test of the table could not execute."""

from __future__ import annotations

import pytest

from harness.degradation import Cell, parse

STATES, FEATURES = ["Redis: down", "no worker"], ["changes", "health"]
TABLE = """
Text before.

| state | changes | health |
|---|---|---|
| Redis: down | 503 | 503 (fail) |
| no worker | works | works (pass) |

Text after.
"""


def test_cells_by_state_and_feature() -> None:
    assert parse(TABLE, STATES, FEATURES) == {
        "Redis: down": {"changes": Cell("503"), "health": Cell("503", "fail")},
        "no worker": {"changes": Cell("works"), "health": Cell("works", "pass")},
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("| state |", "| condition |", "there is no table"),
        (
            "| no worker | works |",
            "| no worker | slow |",
            "changes: 'slow' is not one of works, read-only, delayed, 503",
        ),
        ("| no worker | works |", "| no worker | |", "no worker, changes: '' is not one of"),
        ("| no worker | works |", "| no worker | works (pass) |", "has a word too many"),
        ("works (pass)", "works", "does not end with"),
        ("works (pass)", "works (well)", "does not end with"),
        ("works (pass)", "works (pass", "does not end with"),
        ("| no worker |", "| no workers |", "states: no workers is not known, no worker is missing"),
        ("| no worker |", "| Redis: down |", "states: no worker is missing, Redis: down occurs twice"),
        ("| changes |", "| chances |", "features: chances is not known, changes is missing"),
        ("| works | works (pass) |", "| works (pass) |", "no worker: 1 cells for 2 features"),
        ("|---|---|---|\n", "", "not a separator"),
    ],
)
def test_fault_is_refused_by_name(old: str, new: str, message: str) -> None:
    assert old in TABLE
    with pytest.raises(ValueError, match=r".*") as raised:
        parse(TABLE.replace(old, new), STATES, FEATURES)
    assert message in str(raised.value)


def test_table_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        parse("| state | changes |\n|---|---|\n", [], ["changes"])
