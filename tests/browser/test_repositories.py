"""The path from an address to a report, with and without scripts."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import HeldGit, MakeRepository, Visit, add, analysed, expect_heading, git, open_account
from tests.browser.test_live import expect_live
from tests.browser.test_pages import PHONE

AREAS = ["Activity", "Community", "Continuity", "Releases", "Documentation", "Engineering"]


@pytest.fixture
def page(visit: Visit) -> Page:
    page = visit()
    open_account(page)
    return page


@pytest.fixture
def plain_page(visit: Visit) -> Page:
    """A page without scripts."""
    page = visit(java_script_enabled=False)
    open_account(page)
    return page


def press(page: Page, name: str) -> None:
    page.get_by_role("main").get_by_role("button", name=name, exact=True).click()


def open_menu(page: Page) -> None:
    page.get_by_role("main").get_by_text("More", exact=True).click()


def reload_until(page: Page, heading: str) -> None:
    """Reload the page, as a user without scripts does."""
    for _ in range(100):
        if page.get_by_role("heading", name=heading).count():
            return
        page.wait_for_timeout(100)
        page.reload()
    raise AssertionError(f"no heading {heading!r}: {page.get_by_role('main').inner_text()}")


def names(page: Page) -> list[str]:
    return page.get_by_role("main").get_by_role("heading", level=2).all_inner_texts()


def test_report_arrives_without_a_reload(page: Page, make_repository: MakeRepository, held_git: HeldGit) -> None:
    add(page, make_repository(commits=3))
    expect(page.get_by_role("heading", name="Analysis in progress")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(1)
    page.evaluate("window.loadedOnce = true")
    held_git.release()
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(0)
    assert page.evaluate("window.loadedOnce")
    expect(page.get_by_role("definition").filter(has_text=re.compile(r"^3$"))).not_to_have_count(0)


def test_progress_updates_while_the_user_types(page: Page, make_repository: MakeRepository, held_git: HeldGit) -> None:
    path = make_repository()
    add(page, path)
    page.goto("/")
    field = page.get_by_label("Repository address")
    field.fill("https://not-yet")
    entry = page.get_by_role("listitem").filter(has_text=path.name)
    expect(entry.get_by_role("progressbar")).to_be_visible()
    held_git.release()
    expect(entry).to_contain_text("of 100")
    expect(field).to_have_value("https://not-yet")
    expect(field).to_be_focused()


def test_repositories_work_without_scripts(plain_page: Page, make_repository: MakeRepository) -> None:
    path = make_repository()
    add(plain_page, path)
    reload_until(plain_page, "In numbers")
    expect(plain_page.get_by_role("contentinfo")).to_contain_text("Not live")
    open_menu(plain_page)
    expect(plain_page.get_by_role("button", name="Print")).to_be_hidden()
    plain_page.get_by_text("Stop following", exact=True).click()
    press(plain_page, "Stop following this repository")
    expect_heading(plain_page, "Your repositories")
    expect(plain_page.get_by_role("status")).to_have_text("You no longer follow this repository.")
    expect(plain_page.get_by_role("heading", name="No repositories yet")).to_be_visible()


def test_report_is_reached_by_keyboard(page: Page, make_repository: MakeRepository) -> None:
    page.goto("/")
    field = page.get_by_label("Repository address")
    for _ in range(20):
        page.keyboard.press("Tab")
        if field.evaluate("field => field === document.activeElement"):
            break
    page.keyboard.type(str(make_repository()))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible()


def test_address_errors_are_shown_at_the_field(page: Page) -> None:
    for address in ("ftp://example.org/a/b", "ext::sh -c date", "/etc", "--upload-pack=date", "<script>alert(1)</script>"):
        page.goto("/")
        field = page.get_by_label("Repository address")
        field.fill(address)
        press(page, "Analyse")
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value(address)
        expect(field).to_be_focused()
        expect(page.locator("#url-error")).to_contain_text(".")
        expect(page).to_have_title("Error: Your repositories – RepoRadar")


def test_report_states_every_score_in_words(page: Page, make_repository: MakeRepository) -> None:
    analysed(page, make_repository(commits=4))
    radar = page.get_by_role("img", name=re.compile("^Scores of repository-"))
    in_words = re.compile("Activity: \\d+ of 100, (weak|fair|strong). Community: .* Engineering: ")
    expect(radar).to_have_accessible_description(in_words)
    headings = page.get_by_role("region", name="Scores, weakest first").get_by_role("heading", level=3).all_inner_texts()
    found = [re.fullmatch(r"(\w+) (\d+) (weak|fair|strong)", " ".join(heading.split())) for heading in headings]
    assert sorted(match[1] for match in found if match) == sorted(AREAS)
    points = [int(match[2]) for match in found if match]
    assert points == sorted(points)
    practices = page.get_by_role("region", name="Practices").get_by_role("listitem")
    expect(practices.filter(has_text="Readme")).to_contain_text("README.md")
    expect(practices.filter(has_text="Security policy")).to_contain_text("missing")


def test_commits_are_read_week_by_week_with_the_keyboard(page: Page, make_repository: MakeRepository) -> None:
    path = make_repository(commits=4)
    git(path, "tag", "v1.0")
    analysed(page, path)
    page.get_by_text("Weeks as a table").click()
    rows = page.get_by_role("table", name="Commits per week").locator("tbody tr").all_inner_texts()
    weeks_ago = next(index for index, row in enumerate(rows) if row.split("\t") == ["28 September 2026", "4", "v1.0"])
    slider = page.get_by_role("slider", name="Week")
    slider.focus()
    for _ in range(weeks_ago):
        page.keyboard.press("ArrowLeft")
    text = "of 28 September 2026: 4 commits, released v1.0"
    expect(slider).to_have_attribute("aria-valuetext", text)
    expect(page.get_by_role("status")).to_have_text(text)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("status")).to_have_text("of 21 September 2026: 0 commits")
    chart = page.locator(".weekly .columns")
    box = chart.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * (len(rows) - weeks_ago - 0.5) / len(rows), box["y"] + 10)
    expect(page.get_by_role("status")).to_have_text(text)


def test_unusual_paths_are_escaped(visit: Visit, make_repository: MakeRepository) -> None:
    page = visit(viewport=PHONE)
    open_account(page)
    long = "/".join(["averylongfoldername"] * 10)
    files = {"<b>bold</b>.py": "1\n", "evil\u202eyp.txt": "1\n", "line\nbreak.py": "1\n", f"{long}/deep.py": "1\n"}
    analysed(page, make_repository(files=files))
    hotspots = page.get_by_role("table", name=re.compile("The files that changed"))
    expect(hotspots).to_contain_text("<b>bold</b>.py")
    expect(hotspots).to_contain_text("evil\\u202eyp.txt")
    expect(page.get_by_title(f"{long}/deep.py")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    radar = page.get_by_role("img", name=re.compile("^Scores of")).bounding_box()
    assert radar
    assert radar["y"] + radar["height"] <= PHONE["height"]


def test_empty_repository_has_a_page(page: Page, make_repository: MakeRepository) -> None:
    analysed(page, make_repository(commits=0))
    expect(page.get_by_role("main")).to_contain_text("This repository has no commits on its default branch")
    expect(page.get_by_role("main")).to_contain_text("no overall score")


def test_page_of_a_shallow_clone_says_that_its_history_is_cut_off(page: Page, make_repository: MakeRepository) -> None:
    path = make_repository()
    git(path.parent, "clone", "--quiet", "--depth=1", f"file://{path}", f"shallow-{path.name}")
    analysed(page, path.parent / f"shallow-{path.name}")
    expect(page.get_by_role("main")).to_contain_text("The history of this repository is cut off")
    expect(page.get_by_role("main")).to_contain_text("no overall score")


def test_analysis_is_cancelled_on_the_page(page: Page, make_repository: MakeRepository, held_git: HeldGit) -> None:
    add(page, make_repository())
    press(page, "Cancel")
    expect(page.get_by_role("status")).to_have_text("The analysis was cancelled.")
    expect(page.get_by_role("heading", name="No report yet")).to_be_visible()
    held_git.release()
    press(page, "Analyse again")
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible()


def test_failed_analysis_shows_the_reason_and_keeps_the_older_report(page: Page, make_repository: MakeRepository) -> None:
    path = make_repository()
    analysed(page, path)
    shutil.rmtree(path / ".git")
    press(page, "Analyse again")
    failure = page.get_by_role("region", name="The analysis failed")
    expect(failure).to_contain_text("Below is the report from")
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible()
    page.goto("/")
    expect(page.get_by_role("listitem").filter(has_text=path.name)).to_contain_text("The last analysis failed.")
    page.get_by_role("main").get_by_role("link", name=path.name).click()
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_history_begins_with_the_second_analysis(page: Page, make_repository: MakeRepository) -> None:
    path = make_repository(commits=2)
    analysed(page, path)
    expect(page.get_by_role("region", name="History")).to_contain_text("The history begins with the second analysis.")
    git(path, "commit", "--quiet", "--allow-empty", "--message", "More", day=9)
    press(page, "Analyse again")
    history = page.get_by_role("region", name="History")
    expect(history.get_by_role("heading", level=3)).to_have_count(7)
    history.get_by_text("Scores as a table").click()
    expect(history.get_by_role("table").get_by_role("row")).to_have_count(3)


def test_repository_list_is_searched_and_sorted(page: Page, make_repository: MakeRepository) -> None:
    for name in ("search-b", "search-a", "other-c"):
        analysed(page, make_repository(name))
    page.goto("/")
    assert names(page) == ["other-c", "search-a", "search-b"]
    page.get_by_label("Sort by").select_option("Name")
    page.get_by_role("searchbox", name="Search").fill("SEARCH")
    press(page, "Show")
    assert names(page) == ["search-a", "search-b"]
    expect(page.get_by_role("searchbox", name="Search")).to_have_value("SEARCH")
    expect(page.get_by_label("Sort by")).to_have_value("name")
    page.get_by_role("searchbox", name="Search").fill("<b>nothing</b>")
    press(page, "Show")
    expect(page.get_by_role("main")).to_contain_text("None of your 3 repositories has “<b>nothing</b>” in its name or address.")
    page.get_by_role("link", name="Show them all").click()
    assert len(names(page)) == 3


def test_repositories_are_compared_side_by_side(plain_page: Page, make_repository: MakeRepository) -> None:
    page = plain_page
    paths = [make_repository(commits=commits) for commits in (2, 5)]
    for path in paths:
        add(page, path)
        reload_until(page, "In numbers")
    page.goto("/")
    for path in paths:
        page.get_by_label(f"Select {path.name}").check()
    press(page, "Compare selected")
    expect_heading(page, "Compare")
    table = page.get_by_role("table", name="Scores and numbers of the selected repositories")
    newest, oldest = (re.compile(rf"\s*{path.name}\s*") for path in reversed(paths))
    expect(table.get_by_role("columnheader")).to_have_text([newest, oldest])
    expect(table.get_by_role("row", name="Commits in a year")).to_have_text(re.compile(r"Commits in a year\s*best\s*5\s*2\s*"))
    charts = page.get_by_role("list", name="Charts").get_by_role("listitem")
    for path in paths:
        expect(charts.filter(has_text=path.name).get_by_role("img")).to_have_accessible_name(f"Scores of {path.name}")
    expect(table.get_by_role("row", name="Files")).to_be_visible()
    page.get_by_role("link", name="Show only differences").click()
    expect(table.get_by_role("row", name="Files")).to_have_count(0)
    expect(table.get_by_role("row", name="Commits in a year")).to_be_visible()

    page.goto("/compare")
    expect(page.get_by_role("heading", name="Choose two to four repositories")).to_be_visible()
    page.get_by_label("First").select_option(paths[0].name)
    page.get_by_label("Second").select_option(paths[1].name)
    press(page, "Compare")
    expect(table.get_by_role("columnheader")).to_have_text([oldest, newest])


def test_comparison_without_repositories_offers_a_next_step(page: Page) -> None:
    for query in ("", "?ids=1,2", "?ids=x,,99999999999999999999999"):
        page.goto(f"/compare{query}")
        expect(page.get_by_role("heading", name="Nothing to compare yet")).to_be_visible()


def test_unfollowed_repository_is_not_found(page: Page) -> None:
    for path in ("/repositories/987654321", "/repositories/99999999999999999999", "/repositories/1x"):
        answer = page.goto(path)
        assert answer
        assert answer.status == 404, path
        expect(page.get_by_role("link", name="Home")).to_be_visible()


def test_report_is_downloaded_and_printed(visit: Visit, make_repository: MakeRepository) -> None:
    page = visit(color_scheme="dark")
    open_account(page)
    path = make_repository(commits=20)
    analysed(page, path)
    open_menu(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export JSON").click()
    assert download.value.suggested_filename == f"reporadar-{path.name}.json"
    document = json.loads(Path(download.value.path()).read_text())
    assert document["repository"] == {"name": path.name, "url": str(path)}
    assert document["report"]["commits"] == 20
    paper = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", paper)) <= 2
    page.emulate_media(media="print", color_scheme="dark")
    expect(page.get_by_role("banner")).to_be_hidden()
    expect(page.get_by_role("button", name="Analyse again")).to_be_hidden()
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(16, 34, 31)"


# Name of each response that was not in the cache, and the size of its compressed body in bytes.
TRANSFERRED = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter(({ name, transferSize }) => transferSize && !name.includes("/socket.io/"))
    .map(({ name, encodedBodySize }) => [name, encodedBodySize])"""


def test_first_visit_to_a_report_needs_few_requests_and_the_next_page_one(visit: Visit, make_repository: MakeRepository) -> None:
    page = visit()
    open_account(page)
    analysed(page, make_repository(commits=3))
    elsewhere = visit(storage_state=page.context.storage_state())  # its cache is empty
    for address, requests, kilobytes in ((page.url, 8, 40), ("/", 1, 10)):
        elsewhere.goto(address)
        expect_live(elsewhere)
        loaded = elsewhere.evaluate(TRANSFERRED)
        assert 1 <= len(loaded) <= requests, loaded
        assert sum(size for _, size in loaded) <= kilobytes * 1000, loaded
