"""Accessibility and layout of every page in each of its states."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.conftest import PASSWORD, MakeRepository, Visit, analysed, new_email, open_account

LEGIBILITY = Path(__file__).with_name("legibility.js").read_text()
PHONE: ViewportSize = {"width": 360, "height": 740}
LONG_NAME = "averylongnamewithoutaplacewherealinecouldbreak"
# WCAG 2.2, 2.5.8. The link to skip the navigation is only for the keyboard.
TOO_SMALL = """targets => targets.filter(target => target.checkVisibility()).filter(target => {
  const { width, height } = target.getBoundingClientRect();
  return Math.min(width, height) < 24;
}).map(target => target.outerHTML)"""
UNLABELLED = "fields => fields.filter(field => field.labels.length === 0).map(field => field.name)"

Go = Callable[[Page], object]
Scheme = Literal["light", "dark"]


def go_to(path: str) -> Go:
    return lambda page: page.goto(path)


def go_to_signed_in(path: str) -> Go:
    def go(page: Page) -> None:
        open_account(page, f"{LONG_NAME}{new_email()}")
        page.goto(path)

    return go


def refused_sign_in(page: Page) -> None:
    page.goto("/login")
    page.get_by_label("E-mail").fill("someone@example.org")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("main").get_by_role("button").click()
    expect(page.get_by_role("alert")).to_be_visible()


def refused_registration(page: Page) -> None:
    page.goto("/register")
    page.get_by_label("E-mail").fill("someone@example.org")
    page.get_by_label("Password").fill("password1")
    page.get_by_role("main").get_by_role("button").click()
    expect(page.get_by_label("Password")).to_have_attribute("aria-invalid", "true")


def refused_deletion(page: Page) -> None:
    go_to_signed_in("/settings")(page)
    page.get_by_label("Your password").fill("not my password")
    page.get_by_role("button", name="Delete my account").click()
    expect(page.get_by_label("Your password")).to_have_attribute("aria-invalid", "true")


def new_token(page: Page) -> None:
    go_to_signed_in("/settings")(page)
    page.get_by_label("Name of the new token").fill(LONG_NAME * 2)
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_label("New token", exact=True)).to_be_focused()
    expect(page.get_by_label("New token", exact=True)).to_be_in_viewport()


def new_feed(page: Page) -> None:
    go_to_signed_in("/settings")(page)
    page.get_by_role("button", name="Add Atom feed").click()
    expect(page.get_by_label("Address", exact=True)).to_be_focused()
    expect(page.get_by_label("Address", exact=True)).to_be_in_viewport()


def refused_address(page: Page) -> None:
    go_to_signed_in("/")(page)
    page.get_by_label("Repository address").fill(LONG_NAME * 5)
    page.get_by_role("button", name="Analyse").click()
    expect(page.get_by_label("Repository address")).to_have_attribute("aria-invalid", "true")


def found_addresses(page: Page) -> None:
    go_to_signed_in("/import")(page)
    page.get_by_label("Text with addresses").fill(f"pallets/flask\nhello\nhttps://example.org/{LONG_NAME * 3}")
    page.get_by_role("button", name="Find addresses").click()
    expect(page.get_by_role("button", name="Add the selected repositories")).to_be_visible()


PAGES = {
    "home": go_to("/"),
    "login": go_to("/login"),
    "login refused": refused_sign_in,
    "register": go_to("/register"),
    "register refused": refused_registration,
    "dashboard": go_to_signed_in("/"),
    "address refused": refused_address,
    "compare": go_to_signed_in("/compare"),
    "addresses found in a text": found_addresses,
    "notifications": go_to_signed_in("/notifications"),
    "settings": go_to_signed_in("/settings?done=password"),
    "settings refused": refused_deletion,
    "settings with a new token": new_token,
    "settings with a new feed": new_feed,
    "link to set a password refused": go_to("/reset-password?token=x"),
    "privacy": go_to("/privacy"),
    "privacy of an account": go_to_signed_in("/privacy?done=counted"),
    "definitions": go_to("/about/scores"),
    "error": go_to("/nowhere"),
}

GROUND: dict[Scheme, str] = {"light": "rgb(243, 247, 245)", "dark": "rgb(10, 21, 19)"}


@pytest.mark.parametrize("go", PAGES.values(), ids=PAGES.keys())
def test_page_is_accessible_and_fits_a_phone(visit: Visit, go: Go) -> None:
    page = visit()
    go(page)
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    page.wait_for_load_state()  # of a page that a form led to; with its stylesheet
    assert_legible_in_light_and_dark(page)
    assert_fits_a_phone(page)
    assert_fields_have_labels(page)
    skip = page.get_by_role("link", name="Skip to content")
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


def assert_legible_in_light_and_dark(page: Page) -> None:
    for scheme, ground in GROUND.items():
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("body")).to_have_css("background-color", ground)
        assert page.evaluate(LEGIBILITY) == [], f"{page.url}, {scheme}"


def assert_fits_a_phone(page: Page) -> None:
    assert_fits(page, PHONE)
    targets = page.locator("a:not(.skip), button, summary, input:not([type=hidden]), select, textarea")
    assert targets.evaluate_all(TOO_SMALL) == [], page.url


def assert_fits(page: Page, size: ViewportSize) -> None:
    page.set_viewport_size(size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], page.url


def assert_fields_have_labels(page: Page) -> None:
    assert page.locator("input:visible, select:visible, textarea:visible").evaluate_all(UNLABELLED) == [], page.url


def test_pages_with_reports_are_accessible_and_fit_a_phone(visit: Visit, make_repository: MakeRepository) -> None:
    page = visit()
    open_account(page)
    analysed(page, make_repository())
    one = page.url.rpartition("/")[2]
    analysed(page, make_repository(LONG_NAME * 2))
    other = page.url.rpartition("/")[2]
    shared = page.request.put(f"/api/repositories/{other}/share").json()["url"]
    for path in ("/", shared, f"/repositories/{other}", f"/compare?ids={one},{other}", "/notifications"):
        page.goto(path)
        if path == "/":
            page.get_by_role("checkbox").first.check()  # shows the bar for what is selected
        assert_fits_a_phone(page)
        assert_legible_in_light_and_dark(page)
        assert_fields_have_labels(page)


def test_times_are_those_of_the_reader(visit: Visit) -> None:
    page = visit(timezone_id="Asia/Kolkata")
    open_account(page)
    page.goto("/settings")
    time = page.get_by_role("definition").locator("time")
    expect(time).to_have_attribute("title", re.compile(r"\d, \d\d:\d\d UTC$"))
    local = datetime.fromisoformat(time.get_attribute("datetime") or "").astimezone(ZoneInfo("Asia/Kolkata"))
    expect(time).to_have_text(f"{local:%-d %B %Y, %H:%M}")


@pytest.mark.parametrize("has_scripts", [True, False])
def test_account_menu_works_by_keyboard(visit: Visit, has_scripts: bool) -> None:
    page = visit(viewport=PHONE, java_script_enabled=has_scripts)
    open_account(page)
    page.goto("/settings")
    summary, sign_out = page.get_by_text("Account", exact=True).first, page.get_by_role("banner").get_by_role("button")
    summary.press("Enter")
    expect(sign_out).to_be_visible()
    if has_scripts:
        sign_out.press("Escape")
        expect(sign_out).to_be_hidden()
        expect(summary).to_be_focused()
        summary.press("Enter")
    sign_out.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("See how the repositories")


def test_reduced_motion_is_respected(visit: Visit) -> None:
    page = visit(reduced_motion="reduce")
    page.goto("/")
    assert page.evaluate("document.getAnimations().length") == 0


def test_error_page_shows_its_request_id(visit: Visit) -> None:
    page = visit()
    answer = page.goto("/nowhere")
    assert answer
    assert answer.status == 404
    expect(page.get_by_role("contentinfo")).to_contain_text(answer.headers["x-request-id"])
