from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.analytics.events import Event, Item, Scalar, check
from app.core.timestamps import iso

NOW = datetime(2026, 11, 26, 20, 0, 0, 123_000, UTC)
OLDEST = NOW - timedelta(days=365)
GOOD = {"name": "page_viewed", "category": "navigation"}
TYPICAL_S = 0.02  # a twentieth of that here
HOSTILE_S = 1.0  # of the worst body that there is; a tenth of that here


def one(**fields: Any) -> Event:
    events, rejected = check([{**GOOD, **fields}], NOW, OLDEST)
    assert rejected == []
    return events[0]


def errors(item: Any) -> list[tuple[str, str]]:
    events, rejected = check([item], NOW, OLDEST)
    assert events == []
    assert [each.index for each in rejected] == [0]
    return [(error["field"], error["message"]) for error in rejected[0].errors]


def fields(**changes: Any) -> list[str]:
    return [field for field, _ in errors({**GOOD, **changes})]


def test_a_small_event() -> None:
    event = one()
    assert (event.name, event.category, event.properties, event.occurred_at) == ("page_viewed", "navigation", {}, NOW)
    assert str(UUID(event.event_id, version=4)) == event.event_id
    assert one().event_id != event.event_id


def test_a_full_event() -> None:
    properties: dict[str, Scalar] = {"path": "/", "seconds": 7, "ratio": 0.5, "first": True}
    event = one(id="run-1:7.a_b", properties=properties, occurred_at="2026-11-26T19:00:00.5Z")
    at = NOW.replace(hour=19, microsecond=500_000)
    assert event == Event("run-1:7.a_b", "page_viewed", "navigation", properties, at, is_dated=True)
    assert [type(value) for value in event.properties.values()] == [str, int, float, bool]


def test_each_is_judged_alone() -> None:
    items = [GOOD, 7, {**GOOD, "id": "a"}, {**GOOD, "name": ""}, {**GOOD, "id": "b"}]
    events, rejected = check(items, NOW, OLDEST)
    assert [event.event_id for event in events[1:]] == ["a", "b"]
    assert [each.index for each in rejected] == [1, 3]


def test_the_same_id_twice_is_left_to_the_storing() -> None:
    events, rejected = check([{**GOOD, "id": "a"}, {**GOOD, "id": "a"}], NOW, OLDEST)
    assert ([event.event_id for event in events], rejected) == (["a", "a"], [])


def test_an_event_has_a_size() -> None:
    events, (rejected,) = check([{**GOOD, "properties": {f"k{number}": "\U0001f600" * 200 for number in range(3)}}], NOW, OLDEST)
    assert (events, rejected.errors) == ([], [{"field": "properties", "message": "An event has at most 2,048 bytes."}])


def test_nothing_is_no_event() -> None:
    assert check([], NOW, OLDEST) == ([], [])


@pytest.mark.parametrize("item", [None, 7, "x", [], True, 0.5, [GOOD], {**GOOD, "a": 1, "b": 2, "c": 3, "d": 4}])
def test_what_is_no_event_at_all(item: Any) -> None:
    assert errors(item) == [("", "An event is an object of id, name, category, properties, occurred_at and nothing else.")]


def test_each_fault_is_told_at_its_field() -> None:
    faults = errors({"id": "-", "category": 7, "properties": [], "occurred_at": "now"})
    assert [field for field, _ in faults] == ["id", "name", "category", "properties", "occurred_at"]
    assert dict(faults)["name"] == "This is missing."
    assert dict(faults)["id"].startswith("1 to 64 letters, figures and")


def test_fields_that_there_are_not() -> None:
    assert errors({**GOOD, "user_id": 7}) == [("user_id", "There is no such field.")]
    assert errors({**GOOD, "x" * 1000: 7}) == [("x" * 64, "There is no such field.")]
    assert errors({**GOOD, "\ud800": 7}) == [("", "There is no such field.")]


@pytest.mark.parametrize("name", ["id", "name", "category", "properties", "occurred_at"])
def test_nothing_is_not_left_out(name: str) -> None:
    assert fields(**{name: None}) == [name]


@pytest.mark.parametrize("value", ["a", "7", "A.b:c-d_e", "7b3f1940-a586-40f5-b748-2a7c7b1d642c", "x" * 64])
def test_ids(value: str) -> None:
    assert one(id=value).event_id == value


@pytest.mark.parametrize("value", ["", "-a", ".a", "a b", "a/b", "a\n", "x" * 65, "é", 7, True, ["a"], "\ud800", "192.0.2.17"])
def test_ids_that_are_none(value: Any) -> None:
    assert fields(id=value) == ["id"]


@pytest.mark.parametrize("field", ["name", "category"])
@pytest.mark.parametrize("value", ["a", "Z", "page viewed", "a_b.c:d/e-f 9", "x" * 64])
def test_names_and_categories(field: str, value: str) -> None:
    assert getattr(one(**{field: value}), field) == value


@pytest.mark.parametrize("field", ["name", "category"])
@pytest.mark.parametrize(
    "value", ["", " a", "7a", "_a", "a\n", "a<b", "a@b", "é", "x" * 65, 7, None, [], {}, "a\x00", "visit of 192.0.2.17"]
)
def test_names_and_categories_that_are_none(field: str, value: Any) -> None:
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
def test_values(value: Any) -> None:
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
def test_values_that_are_none(value: Any) -> None:
    faults = errors({**GOOD, "properties": {"fine": 1, "key": value}})
    assert [field for field, _ in faults] == ["properties.key"]
    assert faults[0][1].startswith("A text of at most 200 characters")


@pytest.mark.parametrize("key", ["a", "A", "a_b.c-d9", "x" * 40])
def test_keys(key: str) -> None:
    assert one(properties={key: 1}).properties == {key: 1}


@pytest.mark.parametrize("key", ["", "7a", "_a", "a b", "é", "x" * 41, "a\n", "$a", "__proto__", "\ud800"])
def test_keys_that_are_none(key: str) -> None:
    assert fields(properties={key: 1}) == ["properties"]


def test_too_many_properties_are_not_judged_one_by_one() -> None:
    assert fields(properties={f"key{number}": [] for number in range(900)}) == ["properties"]


def test_how_many_properties() -> None:
    assert len(one(properties={f"key{number}": 1 for number in range(20)}).properties) == 20
    assert fields(properties={f"key{number}": 1 for number in range(21)}) == ["properties"]


def test_personal_data_is_refused_at_its_field() -> None:
    faults = errors({**GOOD, "properties": {"email": "x", "note": "ada@example.org", "fine": 1, "is_mobile": True}})
    assert faults == [
        ("properties.email", "This is called like an e-mail address, and nothing personal is stored."),
        ("properties.note", "This looks like an e-mail address, and nothing personal is stored."),
    ]


def test_what_was_sent_is_not_repeated() -> None:
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
def test_moments(text: str, moment: datetime) -> None:
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
def test_moments_that_are_none(text: Any) -> None:
    faults = errors({**GOOD, "occurred_at": text})
    assert faults == [("occurred_at", "A moment of ISO 8601 with its zone, such as 2026-11-26T20:00:00Z.")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (iso(NOW + timedelta(minutes=5, milliseconds=1)), "This is in the future."),
        ("9999-12-31T23:59:59-23:59", "This is in the future."),
        (iso(OLDEST - timedelta(milliseconds=1)), "This is too long ago: it would not be kept."),
        ("0001-01-01T00:00:00+23:59", "This is too long ago: it would not be kept."),
    ],
)
def test_moments_that_are_out_of_reach(text: str, why: str) -> None:
    assert errors({**GOOD, "occurred_at": text}) == [("occurred_at", why)]


def test_without_a_moment_it_was_now_in_milliseconds() -> None:
    events, _ = check([GOOD], NOW.replace(microsecond=123_999), OLDEST)
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
def test_the_path(path: str | int, kept: str) -> None:
    assert Event("a", "page_viewed", "navigation", {"path": path}, NOW).path == kept


def test_an_event_without_a_path() -> None:
    assert one().path == ""


def test_the_form_can_be_described() -> None:
    schema = Item.model_json_schema()
    assert sorted(schema["required"]) == ["category", "name"]
    assert schema["additionalProperties"] is False
    (values,) = schema["properties"]["properties"]["patternProperties"].values()
    kinds = [kind["type"] for kind in values["anyOf"]]
    assert kinds == ["string", "integer", "number", "boolean"]


def test_a_hundred_typical_events_are_checked_while_nobody_waits() -> None:
    assert fastest([typical(number) for number in range(100)]) < TYPICAL_S


HOSTILE = {
    "many fields": [{f"x{number}": 1 for number in range(100_000)}],
    "many properties": [{**GOOD, "properties": {f"x{number}": 1 for number in range(100_000)}}],
    "a long name": [{"name": "x" * 1_000_000, "category": "a"}],
    "a long key": [{**GOOD, "properties": {"x" * 1_000_000: 1}}],
    "a long text": [{**GOOD, "properties": {"x": "1@" * 500_000}}],
    "a long list": [{**GOOD, "properties": {"x": [1] * 500_000}}],
    "a long number": [{**GOOD, "properties": {"x": 10**4000}}] * 100,
    "nested": [{**GOOD, "properties": {"x": json.loads("[" * 500 + "]" * 500)}}] * 100,
    "faults": [{**GOOD, "properties": {f"x{number}": [[]] for number in range(20)}}] * 100,
    "links": [
        {**GOOD, "properties": {f"a{m}": "&".join(f"?k{n}{m}{i}=" for i in range(10)) for m in range(20)}} for n in range(100)
    ],
    **{
        text[:6]: [{**GOOD, "properties": {f"x{number}": text for number in range(20)}}] * 100
        for text in ("DE89 " * 40, "1::1 " * 40)
    },
}


@pytest.mark.parametrize("items", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_events_are_cheap(items: list[Any]) -> None:
    assert fastest(items) < HOSTILE_S


def typical(number: int) -> dict[str, Any]:
    properties = {"path": "/repositories/<id>", "seconds": number, "from": "https://example.org/a/list"}
    return {"id": str(uuid4()), "name": "page_left", "category": "navigation", "properties": properties, "occurred_at": iso(NOW)}


def fastest(items: list[Any]) -> float:
    def once() -> float:
        start = time.process_time()
        check(items, NOW, OLDEST)
        return time.process_time() - start

    return min(once() for _ in range(3))
