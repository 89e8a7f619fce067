from __future__ import annotations

import codecs
import csv
import io
import json
import random
from typing import Any

import pytest

from app.analytics.exports import file
from app.analytics.exports.file import CsvFile, ExportedEvent, decompress
from tests.unit.analytics.exports.conftest import NOON, rows_of


def an_event(**changes: Any) -> ExportedEvent:
    values: dict[str, Any] = {"id": "1", "occurred_at": NOON, "name": "page_viewed", "category": "navigation", "properties": {}}
    return ExportedEvent(**values | changes)


def written(*events: ExportedEvent) -> bytes:
    made = CsvFile()
    made.add(events)
    return decompress(made.take_part())


def test_file_without_events_has_the_header() -> None:
    assert decompress(CsvFile().take_part()) == codecs.BOM_UTF8 + b"id,occurred_at,name,category,properties\r\n"


def test_lines_follow_rfc_4180() -> None:
    found = written(an_event(properties={"path": "/", "a": 'say "hi"'}))
    expected = '1,2026-01-02T12:00:00.000Z,page_viewed,navigation,"{""a"":""say \\""hi\\"""",""path"":""/""}"'
    assert found.decode("utf-8-sig").split("\r\n") == ["id,occurred_at,name,category,properties", expected, ""]


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\r\nb", "ä€😀", " a ", "", "a\x00b"])
def test_text_is_preserved(name: str) -> None:
    (row,) = rows_of(written(an_event(name=name)))
    assert row[2] == name


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠SUM(A1)"])
@pytest.mark.parametrize("field", ["id", "name", "category"])
def test_formulas_are_escaped(field: str, formula: str) -> None:
    (row,) = rows_of(written(an_event(**{field: formula})))
    assert row[file.COLUMNS.index(field)] == f"'{formula}"


def test_properties_are_json_with_sorted_keys() -> None:
    (row,) = rows_of(written(an_event(properties={"b": [1, {"d": None, "c": True}], "a": "ä"})))
    assert row[4] == '{"a":"ä","b":[1,{"c":true,"d":null}]}'


def test_unpaired_surrogate_is_escaped() -> None:
    (row,) = rows_of(written(an_event(properties={"a": "\ud800"})))
    assert json.loads(row[4]) == {"a": "\ud800"}


def test_parts_add_up_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PART_BYTES", 10_000)
    chance = random.Random(1)  # noqa: S311
    events = [an_event(id=str(number), name="n" + "".join(chance.choices('ab,"\n', k=20))) for number in range(1000)]
    made, parts = CsvFile(), []
    for event in events:
        made.add([event])
        if made.has_full_part:
            parts.append(made.take_part())
    parts.append(made.take_part())
    raw = [decompress(part) for part in parts]
    assert (made.rows, made.parts) == (1000, len(parts))
    assert len(parts) > 3
    assert all(10_000 <= len(part) < 10_200 for part in raw[:-1])
    found = csv.reader(io.StringIO(b"".join(raw).decode("utf-8-sig"), newline=""))
    assert [row[2] for row in found][1:] == [event.name for event in events]
