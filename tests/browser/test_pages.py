"""Accessibility and layout of every page in each of its states."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PASSWORD, MakeRepository, Visit, analysed, new_email, open_account

LEGIBILITY = Path(__file__).with_name("legibility.js").read_text()
PHONE = {"width": 360, "height": 740}
LONG_NAME = "averylongnamewithoutaplacewherealinecouldbreak"
UNLABELLED = "fields => fields.filter(field => field.labels.length === 0).map(field => field.name)"

Go = Callable[[Page], object]


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


def refused_address(page: Page) -> None:
    go_to_signed_in("/")(page)
    page.get_by_label("Repository address").fill(LONG_NAME * 5)
    page.get_by_role("button", name="Analyse").click()
    expect(page.get_by_label("Repository address")).to_have_attribute("aria-invalid", "true")


PAGES = {
    "home": go_to("/"),
    "login": go_to("/login"),
    "login refused": refused_sign_in,
    "register": go_to("/register"),
    "register refused": refused_registration,
    "dashboard": go_to_signed_in("/"),
    "address refused": refused_address,
    "compare": go_to_signed_in("/compare"),
    "notifications": go_to_signed_in("/notifications"),
    "settings": go_to_signed_in("/settings?done=password"),
    "settings refused": refused_deletion,
    "privacy": go_to("/privacy"),
    "privacy of an account": go_to_signed_in("/privacy?done=counted"),
    "error": go_to("/nowhere"),
}

GROUND = {"light": "rgb(243, 247, 245)", "dark": "rgb(10, 21, 19)"}

every_page = pytest.mark.parametrize("go", PAGES.values(), ids=PAGES.keys())


@every_page
def test_page_fits_a_phone(visit: Visit, go: Go) -> None:
    page = visit(viewport=PHONE)
    go(page)
    page.wait_for_load_state()  # of a page that a form led to; with its stylesheet
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@every_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_legible_in_light_and_dark(visit: Visit, go: Go, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    go(page)
    expect(page.locator("body")).to_have_css("background-color", GROUND[scheme])
    assert page.evaluate(LEGIBILITY) == []


@every_page
def test_page_has_landmarks_one_heading_and_labels(visit: Visit, go: Go) -> None:
    page = visit()
    go(page)
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert page.locator("input:visible").evaluate_all(UNLABELLED) == []


@every_page
def test_skip_link_is_the_first_stop_of_the_keyboard(visit: Visit, go: Go) -> None:
    page = visit()
    go(page)
    skip = page.get_by_role("link", name="Skip to content")
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_with_reports_fit_and_are_legible(visit: Visit, make_repository: MakeRepository, scheme: str) -> None:
    page = visit(viewport=PHONE, color_scheme=scheme)
    open_account(page)
    analysed(page, make_repository())
    one = page.url.rpartition("/")[2]
    analysed(page, make_repository(f"{LONG_NAME}{LONG_NAME}-{scheme}"))
    other = page.url.rpartition("/")[2]
    for path in ("/", f"/repositories/{other}", f"/compare?ids={one},{other}", "/notifications"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        assert page.evaluate(LEGIBILITY) == [], path
        assert page.locator("input:visible, select:visible").evaluate_all(UNLABELLED) == [], path


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
    expect(page.get_by_role("contentinfo")).to_contain_text(answer.headers["x-instance-id"])
