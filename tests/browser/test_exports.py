"""Exports on an open page: requested, awaited and downloaded, with and without scripts."""

from pathlib import Path

from playwright.sync_api import Page, expect

from harness.servers import Instance, promote
from tests.browser.conftest import HeldGit, MakeRepository, Visit, open_account
from tests.browser.test_live import expect_live
from tests.browser.test_pages import assert_fits_a_phone, assert_legible_in_light_and_dark

ORDER = {"from": "2026-01-01", "to": "2026-02-01", "format": "csv"}
HEADER = "id,occurred_at,name,category,properties"


def open_exports(page: Page, instance: Instance) -> None:
    promote(instance.environment, open_account(page))
    page.goto("/admin/analytics/exports")


def order(page: Page) -> None:
    """Request an export, as from another tab."""
    assert page.request.post("/api/analytics/exports", data=ORDER).status == 202


def test_export_becomes_ready_on_the_open_page(
    visit: Visit, instance: Instance, held_git: HeldGit, make_repository: MakeRepository
) -> None:
    page = visit()
    open_exports(page, instance)
    page.request.post("/api/repositories", data={"url": str(make_repository())})  # an embedded instance does one job at a time
    order(page)
    page.reload()
    entry = page.get_by_role("listitem").filter(has_text="1 January 2026 to 31 January 2026")
    expect(entry).to_contain_text("Waiting for its turn, 0 %")
    expect_live(page)
    held_git.release()
    expect(entry).to_contain_text("0 events, ready just now")
    expect(page.locator("#toasts").get_by_role("link", name="Your export of 0 events is ready")).to_be_visible()
    for link in (entry.get_by_role("link", name="Download"), page.locator("#toasts").get_by_role("link", name="Your export")):
        with page.expect_download() as started:
            link.click()
        assert started.value.suggested_filename == "reporadar-events-2026-01-01-to-2026-02-01.csv"
        assert Path(started.value.path()).read_text("utf-8-sig").strip() == HEADER


def test_export_progress_updates_without_a_reload(visit: Visit, instance: Instance) -> None:
    page = visit()
    open_exports(page, instance)
    page.evaluate(
        """async () => {
            const bar = '<p data-export="7"><progress max="100" value="0"></progress><i data-state></i><i data-percent></i></p>';
            document.querySelector("main").insertAdjacentHTML("beforeend", bar);
            const { showExport } = await import(document.querySelector("script[src$='live.js']").src);
            showExport({ id: 7, status: "running", progress: 42, rows: 12345 });
        }"""
    )
    expect(page.locator("main [data-state]")).to_have_text("12,345 events written")
    expect(page.locator("[data-percent]")).to_have_text("42")
    assert page.locator("progress").evaluate("bar => bar.value") == 42


def test_export_is_requested_without_scripts(visit: Visit, instance: Instance) -> None:
    page = visit(java_script_enabled=False)
    open_exports(page, instance)
    page.get_by_label("First day").fill("2026-02-01")
    page.get_by_label("Last day").fill("2026-01-31")
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_text("The last day is before the first day.")).to_be_visible()
    expect(page.get_by_label("First day")).to_have_value("2026-02-01")
    page.get_by_label("Last day").fill("2026-02-01")
    page.get_by_role("button", name="Export").click()
    page.goto("/admin/analytics/exports")
    expect(page.get_by_role("listitem")).to_contain_text("1 February 2026")


def test_exports_page_is_legible_and_fits_a_phone(visit: Visit, instance: Instance) -> None:
    page = visit()
    open_exports(page, instance)
    order(page)
    page.reload()
    expect(page.get_by_role("listitem")).to_have_count(1)
    assert_fits_a_phone(page)
    assert_legible_in_light_and_dark(page)
