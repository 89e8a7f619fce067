"""Reports prepared for pages."""

from __future__ import annotations

from app.web import reports
from app.web.reports import Segment
from tests.unit.web.samples import EMPTY, judged_report, past, quarter, report


def test_area_scores_have_the_order_of_the_spokes() -> None:
    assert reports.area_scores({"overall": 9, "engineering": 6, "activity": 1, "community": None}) == [
        1,
        None,
        None,
        None,
        None,
        6,
    ]
    assert reports.area_scores(None) == [None] * 6


def test_languages_are_sorted_by_size() -> None:
    assert reports.languages(report()) == [Segment("Python", 900), Segment("HTML", 100)]
    assert reports.languages(EMPTY) == []


def test_small_languages_are_combined_if_there_are_many() -> None:
    many = {f"L{number}": number for number in range(1, 11)}
    shown = reports.languages(report(languages=many))
    assert shown[0] == Segment("L10", 10)
    assert shown[-1] == Segment("3 others", 1 + 2 + 3)
    assert len(shown) == reports.MAX_SEGMENTS + 1


def test_eight_languages_are_not_combined() -> None:
    many = {f"L{number}": number for number in range(1, 9)}
    assert [language.label for language in reports.languages(report(languages=many))][-1] == "L1"


def test_author_shares_are_combined_if_there_are_many() -> None:
    assert reports.author_shares(judged_report()) == [
        Segment("Author 1", 0.5),
        Segment("Author 2", 0.3),
        Segment("Author 3", 0.2),
    ]
    shown = reports.author_shares(judged_report(author_shares=[0.2] + [0.1] * 8))
    assert [segment.label for segment in shown] == [*(f"Author {place}" for place in range(1, 8)), "2 others"]
    assert shown[-1].size == 0.2
    assert reports.author_shares(report()) == []


def test_weakest_area_is_first_and_areas_without_a_score_are_last() -> None:
    found = judged_report()
    found["scores"]["engineering"]["score"] = None
    areas = reports.weakest_first(found)
    assert [area.name for area in areas] == ["activity", "continuity", "releases", "documentation", "community", "engineering"]
    assert (areas[0].band, areas[0].advice) == ("weak", "Advice on activity.")


def test_report_without_a_verdict_has_no_bands_and_no_advice() -> None:
    assert {(area.band, area.advice) for area in reports.weakest_first(report())} == {(None, None)}


def test_other_files_are_listed_by_kind() -> None:
    assert reports.other_files(judged_report()) == ["1,200 vendored", "40 documentation"]
    assert reports.other_files(report()) == []


def test_weekly_chart_ends_with_the_week_of_the_report() -> None:
    chart = reports.weekly_chart(judged_report())
    assert chart is not None
    assert (len(chart.weeks), chart.weeks[0].start, chart.weeks[-1].start) == (261, "2020-10-05", "2025-09-29")
    assert (chart.quiet_weeks, chart.busiest.commits) == (31, 5)
    assert chart.years == [(4.82, 2021), (24.79, 2022), (44.77, 2023), (64.75, 2024), (84.78, 2025)]


def test_weekly_chart_has_a_flag_for_each_release_of_its_time() -> None:
    chart = reports.weekly_chart(judged_report())
    assert chart is not None
    assert chart.flags == [(91.35, "1.2")]
    assert [(week.start, week.releases) for week in chart.weeks if week.releases] == [("2025-04-28", ["1.2"])]


def test_report_of_the_first_formulas_has_no_weekly_chart() -> None:
    assert reports.weekly_chart(report()) is None


def test_quiet_repository_has_a_chart() -> None:
    chart = reports.weekly_chart(judged_report(weekly=[{"start": "2025-09-29", "commits": 0}]))
    assert chart is not None
    assert chart.quiet_weeks == 1


def test_timeline_continues_the_scores_from_git_with_analyses() -> None:
    points = reports.timeline(judged_report(), [past(0, 50), past(1, 40)])
    assert [(point.at.isoformat()[:10], point.scores["activity"], point.is_analysis) for point in points] == [
        ("2025-06-30", 10, False),
        ("2025-10-02", 40, True),
        ("2025-10-03", 50, True),
    ]


def test_scores_from_git_end_with_the_first_analysis() -> None:
    found = judged_report(past=[quarter("2025-06-30T23:59:59Z", 0), quarter("2025-09-30T23:59:59Z", 20)])
    assert [point.scores["activity"] for point in reports.timeline(found, [past(0, 50), past(10, 40)])] == [0, 40, 50]


def test_analyses_with_other_formulas_are_not_in_the_timeline() -> None:
    history = [past(0, 50), past(1, 40, version=1), past(2, 30)]
    assert [point.scores["overall"] for point in reports.timeline(judged_report(past=[]), history)] == [30, 50]
    assert reports.earlier_formulas(judged_report(), history) == [reports.TrendPoint(history[1].as_of, history[1].scores, True)]
    assert [point.scores["overall"] for point in reports.timeline(report(), history)] == [40]


def trend(label: str, *history: tuple[int, int | None]) -> reports.Trend:
    points = reports.timeline(judged_report(past=[]), [past(days_ago, score) for days_ago, score in reversed(history)])
    return next(trend for trend in reports.trends(points) if trend.label == label)


def test_trends_are_those_of_all_scores() -> None:
    points = reports.timeline(judged_report(), [past(0, 50)])
    found = {trend.label: trend for trend in reports.trends(points)}
    assert list(found) == ["Overall", *reports.AREAS.values()]
    assert (found["Activity"].latest, found["Activity"].change) == (50, 40)
    assert found["Activity"].curves == ["0,90 300,50"]
    assert (found["Engineering"].latest, found["Engineering"].change) == (50, None)
    assert found["Engineering"].curves == ["300,50 300,50"]


def test_trend_compares_with_the_score_of_a_year_before() -> None:
    found = trend("Overall", (500, 10), (365, 20), (300, 30), (0, 50))
    assert (found.change, found.earlier_at) == (30, past(365, 0).as_of)


def test_trend_of_less_than_a_year_compares_with_the_first_score() -> None:
    found = trend("Overall", (20, None), (10, 30), (0, 20))
    assert (found.change, found.earlier_at) == (-10, past(10, 0).as_of)


def test_missing_score_splits_the_curve() -> None:
    assert trend("Overall", (2, 40), (1, None), (0, 50)).curves == ["0,60 0,60", "300,50 300,50"]
    assert trend("Overall", (1, 40), (0, None)).change is None
