from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.analytics.catalogue import DECLARED_EVENTS, DeclaredEvent
from app.analytics.events import Event, EventInput, Scalar, validate
from app.core.timestamps import iso

NOW = datetime(2026, 11, 26, 20, 0, 0, 123_000, UTC)
OLDEST = NOW - timedelta(days=365)
VALID = {"name": "clicked", "category": "test"}
TYPICAL_SECONDS = 0.02  # measured: a twentieth of that
HOSTILE_SECONDS = 1.0  # for the most expensive body; measured: a tenth of that


def one(**fields: Any) -> Event:
    events, rejected = validate([{**VALID, **fields}], NOW, OLDEST)
    assert rejected == []
    return events[0]


def errors(item: Any) -> list[tuple[str, str]]:
    events, rejected = validate([item], NOW, OLDEST)
    assert events == []
    assert [each.index for each in rejected] == [0]
    return [(error["field"], error["message"]) for error in rejected[0].errors]


def fields(**changes: Any) -> list[str]:
    return [field for field, _ in errors({**VALID, **changes})]


def test_minimal_event_is_valid() -> None:
    event = one()
    assert (event.name, event.category, event.properties, event.occurred_at) == ("clicked", "test", {}, NOW)
    assert str(UUID(event.event_id, version=4)) == event.event_id
    assert one().event_id != event.event_id


def test_event_with_all_fields_is_valid() -> None:
    properties: dict[str, Scalar] = {"path": "/", "seconds": 7, "ratio": 0.5, "first": True}
    event = one(id="run-1:7.a_b", properties=properties, occurred_at="2026-11-26T19:00:00.5Z")
    at = NOW.replace(hour=19, microsecond=500_000)
    assert event == Event("run-1:7.a_b", "clicked", "test", properties, at, is_dated=True)
    assert [type(value) for value in event.properties.values()] == [str, int, float, bool]


def test_invalid_event_does_not_affect_the_others() -> None:
    items = [VALID, 7, {**VALID, "id": "a"}, {**VALID, "name": ""}, {**VALID, "id": "b"}]
    events, rejected = validate(items, NOW, OLDEST)
    assert [event.event_id for event in events[1:]] == ["a", "b"]
    assert [each.index for each in rejected] == [1, 3]


def test_duplicate_id_passes_validation() -> None:
    events, rejected = validate([{**VALID, "id": "a"}, {**VALID, "id": "a"}], NOW, OLDEST)
    assert ([event.event_id for event in events], rejected) == (["a", "a"], [])


def test_event_that_is_too_large_is_rejected() -> None:
    events, (rejected,) = validate(
        [{**VALID, "properties": {f"k{number}": "\U0001f600" * 200 for number in range(3)}}], NOW, OLDEST
    )
    assert (events, rejected.errors) == ([], [{"field": "properties", "message": "An event has at most 2,048 bytes."}])


def test_empty_batch_is_valid() -> None:
    assert validate([], NOW, OLDEST) == ([], [])


@pytest.mark.parametrize("item", [None, 7, "x", [], True, 0.5, [VALID], {**VALID, "a": 1, "b": 2, "c": 3, "d": 4}])
def test_item_that_is_not_an_event_is_rejected(item: Any) -> None:
    assert errors(item) == [("", "An event is an object with these fields only: id, name, category, properties, occurred_at.")]


def test_each_error_names_its_field() -> None:
    faults = errors({"id": "-", "category": 7, "properties": [], "occurred_at": "now"})
    assert [field for field, _ in faults] == ["id", "name", "category", "properties", "occurred_at"]
    assert dict(faults)["name"] == "This field is required."
    assert dict(faults)["id"].startswith("Use 1 to 64 letters, digits and")


def test_unknown_field_is_rejected() -> None:
    assert errors({**VALID, "user_id": 7}) == [("user_id", "There is no such field.")]
    assert errors({**VALID, "x" * 1000: 7}) == [("x" * 64, "There is no such field.")]
    assert errors({**VALID, "\ud800": 7}) == [("", "There is no such field.")]


@pytest.mark.parametrize("name", ["id", "name", "category", "properties", "occurred_at"])
def test_null_is_not_the_same_as_missing(name: str) -> None:
    assert fields(**{name: None}) == [name]


@pytest.mark.parametrize("value", ["a", "7", "A.b:c-d_e", "7b3f1940-a586-40f5-b748-2a7c7b1d642c", "x" * 64])
def test_valid_ids(value: str) -> None:
    assert one(id=value).event_id == value


@pytest.mark.parametrize("value", ["", "-a", ".a", "a b", "a/b", "a\n", "x" * 65, "é", 7, True, ["a"], "\ud800"])
def test_invalid_ids(value: Any) -> None:
    assert fields(id=value) == ["id"]


@pytest.mark.parametrize("field", ["name", "category"])
@pytest.mark.parametrize("value", ["a", "Z", "page viewed", "a_b.c:d/e-f 9", "x" * 64])
def test_valid_names_and_categories(field: str, value: str) -> None:
    assert getattr(one(**{field: value}), field) == value


@pytest.mark.parametrize("field", ["name", "category"])
@pytest.mark.parametrize("value", ["", " a", "7a", "_a", "a\n", "a<b", "a@b", "é", "x" * 65, 7, None, [], {}, "a\x00"])
def test_invalid_names_and_categories(field: str, value: Any) -> None:
    assert fields(**{field: value}) == [field]


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "x" * 200,
            "日本語",
            "<script>",
            "a'b\"c\\",
            "🙂" * 200,
            "\u2028",
            0,
            -1,
            2**53,
            -(2**53),
            0.0,
            -0.5,
            1e300,
            1e-300,
        ),
        *(True, False),
    ],
)
def test_valid_values(value: Any) -> None:
    kept = one(properties={"key": value}).properties["key"]
    assert kept == value
    assert type(kept) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], {}, ["a"], {"a": 1}, "x" * 201, "a\x00", "a\nb", "\t", "\x7f", "\x85", "\ud800", b"a", NOW),
        *(2**53 + 1, -(2**53) - 1, 10**400, float("nan"), float("inf"), float("-inf")),
    ],
)
def test_invalid_values(value: Any) -> None:
    faults = errors({**VALID, "properties": {"fine": 1, "key": value}})
    assert [field for field, _ in faults] == ["properties.key"]
    assert faults[0][1].startswith("Use a text of at most 200 characters")


@pytest.mark.parametrize("key", ["a", "A", "a_b.c-d9", "x" * 40])
def test_valid_property_names(key: str) -> None:
    assert one(properties={key: 1}).properties == {key: 1}


@pytest.mark.parametrize("key", ["", "7a", "_a", "a b", "é", "x" * 41, "a\n", "$a", "__proto__", "\ud800"])
def test_invalid_property_names(key: str) -> None:
    assert fields(properties={key: 1}) == ["properties"]


def test_too_many_properties_are_one_error() -> None:
    assert fields(properties={f"key{number}": [] for number in range(900)}) == ["properties"]


def test_event_has_at_most_20_properties() -> None:
    assert len(one(properties={f"key{number}": 1 for number in range(20)}).properties) == 20
    assert fields(properties={f"key{number}": 1 for number in range(21)}) == ["properties"]


def test_property_with_the_name_of_personal_data_is_rejected() -> None:
    faults = errors({**VALID, "properties": {"email": "x", "note": "ada@example.org", "fine": 1, "is_mobile": True}})
    expected = "This name stands for an e-mail address. Personal data is not accepted: remove the property."
    assert faults == [("properties.email", expected)]


@pytest.mark.parametrize("declared", DECLARED_EVENTS, ids=lambda declared: declared.name)
def test_declared_event_accepts_its_declared_properties(declared: DeclaredEvent) -> None:
    properties = dict.fromkeys(declared.properties, "x")
    assert one(name=declared.name, properties=properties).properties == properties


def test_declared_event_rejects_undeclared_properties() -> None:
    faults = errors({**VALID, "name": "page_left", "properties": {"path": "/", "email": "x", "referrer": "y"}})
    message = "page_left is a declared event and accepts only these properties: path, seconds."
    assert faults == [("properties.email", message), ("properties.referrer", message)]
    faults = errors({**VALID, "name": "signed_up", "properties": {"plan": "x"}})
    assert faults == [("properties.plan", "signed_up is a declared event and accepts only these properties: none.")]


def test_event_with_undeclared_property_does_not_affect_the_others() -> None:
    declared = {**VALID, "name": "page_viewed"}
    items = [
        declared | {"properties": {"path": "/"}},
        declared | {"properties": {"plan": "x"}},
        VALID | {"properties": {"plan": "x"}},
    ]
    events, rejected = validate(items, NOW, OLDEST)
    assert [event.properties for event in events] == [{"path": "/"}, {"plan": "x"}]
    assert [each.index for each in rejected] == [1]


def test_errors_do_not_repeat_values_that_were_sent() -> None:
    hostile = {"id": "hunter 2", "name": "hunter@2", "category": "<hunter2>", "properties": {"a": ["hunter2"], "hunter 2": 1}}
    assert "hunter" not in json.dumps(errors({**hostile, "occurred_at": "hunter2"}))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-26T19:00:00Z", datetime(2026, 11, 26, 19, tzinfo=UTC)),
        ("2026-11-26T19:00Z", datetime(2026, 11, 26, 19, tzinfo=UTC)),
        ("2026-11-26T20:00:00+01:00", datetime(2026, 11, 26, 19, tzinfo=UTC)),
        ("2026-11-26T20:00:00+0100", datetime(2026, 11, 26, 19, tzinfo=UTC)),
        ("2026-11-25T23:30:00-05:30", datetime(2026, 11, 26, 5, tzinfo=UTC)),
        ("2026-11-26T19:00:00.1239Z", datetime(2026, 11, 26, 19, 0, 0, 123_000, UTC)),
        ("2026-11-26T19:00:00,999999999Z", datetime(2026, 11, 26, 19, 0, 0, 999_000, UTC)),
        (iso(NOW), NOW),
        (iso(NOW + timedelta(seconds=1)), NOW),
        (iso(NOW + timedelta(minutes=5)), NOW),
        (iso(OLDEST), OLDEST),
    ],
)
def test_valid_timestamps(text: str, moment: datetime) -> None:
    kept = one(occurred_at=text).occurred_at
    assert kept == moment
    assert kept.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "now",
            "2026-11-26",
            "2026-11-26T19:00:00",
            "2026-11-26 19:00:00Z",
            "2026-11-26T19Z",
            "20261126T190000Z",
            "2026-W48-4",
        ),
        *("2026-02-30T00:00:00Z", "2026-11-26T25:00:00Z", "2026-11-26T19:00:60Z", "2026-11-26T19:00:00+99:00", "x" * 1000),
        *("2026-11-26T19:00:00Z\n", "٢٠٢٦-11-26T19:00:00Z", 1764187200, 1764187200.5, True, NOW),
    ],
)
def test_invalid_timestamps(text: Any) -> None:
    faults = errors({**VALID, "occurred_at": text})
    assert faults == [("occurred_at", "Use an ISO 8601 timestamp with a time zone, such as 2026-11-26T20:00:00Z.")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (iso(NOW + timedelta(minutes=5, milliseconds=1)), "This is in the future."),
        ("9999-12-31T23:59:59-23:59", "This is in the future."),
        (iso(OLDEST - timedelta(milliseconds=1)), "This is older than the retention period."),
        ("0001-01-01T00:00:00+23:59", "This is older than the retention period."),
    ],
)
def test_timestamp_out_of_range_is_rejected(text: str, why: str) -> None:
    assert errors({**VALID, "occurred_at": text}) == [("occurred_at", why)]


def test_missing_timestamp_becomes_now_in_milliseconds() -> None:
    events, _ = validate([VALID], NOW.replace(microsecond=123_999), OLDEST)
    assert events[0].occurred_at == NOW


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/repositories/<id>", "/repositories/<id>"),
        ("/compare?ids=1,2", "/compare"),
        ("/#part?x", "/"),
        ("/?x#y", "/"),
        ("", ""),
        ("/" + "x" * 300, "/" + "x" * 199),
        (7, ""),
        (True, ""),
    ],
)
def test_path_has_no_query_or_fragment(path: str | int, kept: str) -> None:
    assert Event("a", "page_viewed", "navigation", {"path": path}, NOW).path == kept


def test_event_without_path_property_has_no_path() -> None:
    assert one().path == ""


def test_input_has_a_json_schema() -> None:
    schema = EventInput.model_json_schema()
    assert sorted(schema["required"]) == ["category", "name"]
    assert schema["additionalProperties"] is False
    (values,) = schema["properties"]["properties"]["patternProperties"].values()
    kinds = [kind["type"] for kind in values["anyOf"]]
    assert kinds == ["string", "integer", "number", "boolean"]


def test_validating_100_typical_events_is_fast() -> None:
    assert fastest([typical(number) for number in range(100)]) < TYPICAL_SECONDS


HOSTILE = {
    "many fields": [{f"x{number}": 1 for number in range(100_000)}],
    "many properties": [{**VALID, "properties": {f"x{number}": 1 for number in range(100_000)}}],
    "a long name": [{"name": "x" * 1_000_000, "category": "a"}],
    "a long property name": [{**VALID, "properties": {"x" * 1_000_000: 1}}],
    "a long text": [{**VALID, "properties": {"x": "1@" * 500_000}}],
    "a long list": [{**VALID, "properties": {"x": [1] * 500_000}}],
    "a long number": [{**VALID, "properties": {"x": 10**4000}}] * 100,
    "nested": [{**VALID, "properties": {"x": json.loads("[" * 500 + "]" * 500)}}] * 100,
    "many errors": [{**VALID, "properties": {f"x{number}": [[]] for number in range(20)}}] * 100,
    "property names": [{**VALID, "properties": {f"aA{n}" + "aA" * 16 + f"{m}": 1 for m in range(20)}} for n in range(100)],
}


@pytest.mark.parametrize("items", HOSTILE.values(), ids=HOSTILE.keys())
def test_validating_hostile_events_is_cheap(items: list[Any]) -> None:
    assert fastest(items) < HOSTILE_SECONDS


def typical(number: int) -> dict[str, Any]:
    properties = {"path": "/repositories/<id>", "seconds": number}
    return {"id": str(uuid4()), "name": "page_left", "category": "navigation", "properties": properties, "occurred_at": iso(NOW)}


def fastest(items: list[Any]) -> float:
    def once() -> float:
        start = time.process_time()
        validate(items, NOW, OLDEST)
        return time.process_time() - start

    return min(once() for _ in range(3))
