from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.analytics.reports import ranges
from app.analytics.reports.ranges import PARTIAL_HOUR, RangePart, TimeRange, ceiling, split_range
from app.core.errors import Invalid
from app.core.timestamps import DAY, HOUR, LENGTHS, floor

MILLISECOND = timedelta(milliseconds=1)
NOW = datetime(2025, 10, 3, 20, 15, 30, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("2025-10-03", "2025-10-05", [(DAY, "2025-10-03", "2025-10-05")]),
        ("2025-10-03T05", "2025-10-03T07", [(HOUR, "2025-10-03T05", "2025-10-03T07")]),
        ("2025-10-03T05:10", "2025-10-03T05:20", [(PARTIAL_HOUR, "2025-10-03T05:10", "2025-10-03T05:20")]),
        (
            "2025-10-03T23:59:59.999",
            "2025-10-05T01:00:00.001",
            [
                (PARTIAL_HOUR, "2025-10-03T23:59:59.999", "2025-10-04"),
                (DAY, "2025-10-04", "2025-10-05"),
                (HOUR, "2025-10-05T00", "2025-10-05T01"),
                (PARTIAL_HOUR, "2025-10-05T01", "2025-10-05T01:00:00.001"),
            ],
        ),
        (  # hours do not cross midnight, though there is no whole day
            "2025-10-03T22",
            "2025-10-04T02",
            [(HOUR, "2025-10-03T22", "2025-10-04"), (HOUR, "2025-10-04", "2025-10-04T02")],
        ),
        ("2025-10-03", "2025-10-03", []),
        ("2025-10-04", "2025-10-03", []),
    ],
)
def test_range_is_split(since: str, until: str, expected: list[tuple[str, str, str]]) -> None:
    assert split_range(at(since), at(until)) == [RangePart(grain, at(start), at(end)) for grain, start, end in expected]


@pytest.mark.parametrize("grain", [DAY, HOUR, PARTIAL_HOUR])
def test_parts_cover_the_range_without_gap_or_overlap(grain: str) -> None:
    chance = random.Random(1)  # noqa: S311
    for _ in range(2000):
        since = NOW + timedelta(milliseconds=chance.randrange(100 * 3_600_000))
        until = since + timedelta(milliseconds=chance.randrange(1, chance.choice([3_600_000, 200 * 3_600_000])))
        found = split_range(since, until, grain)
        assert [piece.start for piece in found] + [until] == [since] + [piece.end for piece in found]
        for piece in found:
            if piece.grain != PARTIAL_HOUR:
                assert floor(piece.start, piece.grain) == piece.start < piece.end == floor(piece.end, piece.grain)
            if piece.grain != grain and grain != PARTIAL_HOUR:
                assert floor(piece.start, grain) == floor(piece.end - MILLISECOND, grain)
        assert (
            sum((p.end - p.start for p in found if p.grain == PARTIAL_HOUR), timedelta()) < 2 * LENGTHS[HOUR]
            or grain == PARTIAL_HOUR
        )


def test_ceiling_keeps_the_start_of_an_interval() -> None:
    assert ceiling(at("2025-10-03"), DAY) == at("2025-10-03")
    assert ceiling(at("2025-10-03T00:00:00.001"), DAY) == at("2025-10-04")
    assert ceiling(at("2025-10-03T23:30"), HOUR) == at("2025-10-04")


def test_starts_of_intervals() -> None:
    days = TimeRange(at("2025-10-03T12"), at("2025-10-05T00:00:00.001"), DAY)
    assert days.starts() == [at("2025-10-03"), at("2025-10-04"), at("2025-10-05")]
    assert TimeRange(at("2025-10-03"), at("2025-10-04"), HOUR).starts()[-1] == at("2025-10-03T23")


def test_default_is_the_last_30_days() -> None:
    assert ranges.resolve(None, None, DAY, NOW) == TimeRange(at("2025-09-04"), at("2025-10-04"), DAY)
    assert ranges.resolve(None, None, HOUR, NOW) == TimeRange(at("2025-09-03T21"), at("2025-10-03T21"), HOUR)


def test_range_up_to_now_includes_the_current_interval() -> None:
    assert ranges.resolve(at("2025-10-01T10"), NOW, DAY, NOW).until == at("2025-10-04")
    assert ranges.resolve(at("2025-10-01T10"), NOW + MILLISECOND, HOUR, NOW).until == at("2025-10-03T21")
    assert ranges.resolve(at("2025-10-01T10"), NOW - MILLISECOND, DAY, NOW).until == NOW - MILLISECOND


@pytest.mark.parametrize(
    ("since", "until", "interval", "words"),
    [
        ("2025-10-02", "2025-10-02", DAY, "from must be before to"),
        ("2025-10-02", "2025-10-01", DAY, "from must be before to"),
        ("2026-10-02", None, DAY, "from must be before to"),
        ("2025-08-01", "2025-09-02T00:00:00.001", HOUR, "769 hours. The limit is 768. Choose a shorter range, or days."),
        ("1971-01-01", None, DAY, "The limit is 3,660. Choose a shorter range."),
    ],
)
def test_invalid_ranges_are_rejected(since: str, until: str | None, interval: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        ranges.resolve(at(since), at(until) if until else None, interval, NOW)
    assert refused.value.errors[0]["field"] == "from"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-10-03", at("2025-10-03")),
        ("2025-10-03T20:00:00Z", at("2025-10-03T20:00")),
        ("2025-10-03T20:00:00.123Z", at("2025-10-03T20:00:00.123")),
        ("2025-10-03T20:00:00+02:00", at("2025-10-03T18:00")),
        ("2025-10-03T20:00:00 02:00", at("2025-10-03T18:00")),
        ("2025-10-03 20:00:00-02:00", at("2025-10-03T22:00")),
        ("", None),
    ],
)
def test_timestamps_are_parsed(text: str, moment: datetime | None) -> None:
    assert ranges.parse("from", text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2025-10-03T20:00:00",
        "2025-13-01",
        "1759521600",
        "0001-01-01",
        "9999-12-31",
        "0001-01-01T00:00:00+14:00",
        " ",
    ],
)
def test_invalid_timestamps_are_rejected(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        ranges.parse("to", text)
    assert refused.value.errors[0]["field"] == "to"


def test_time_zone_does_not_matter() -> None:
    kolkata = timezone(timedelta(hours=5, minutes=30))
    assert split_range(at("2025-10-03").astimezone(kolkata), at("2025-10-04").astimezone(kolkata)) == [
        RangePart(DAY, at("2025-10-03"), at("2025-10-04"))
    ]
