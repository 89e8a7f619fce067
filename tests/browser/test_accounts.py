"""The pages of an account, from registration to deletion."""

import re

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import (
    PASSWORD,
    StartInstance,
    Visit,
    expect_heading,
    new_email,
    open_account,
    open_account_menu,
)

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0"
NEW_PASSWORD = "four eager otters"


def sign_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


def follow(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name).click()


def open_settings(page: Page) -> None:
    open_account_menu(page)
    follow(page, "Settings")


def press(page: Page, name: str) -> None:
    page.get_by_role("main").get_by_role("button", name=name).click()


def row(page: Page, browser: str) -> Locator:
    return page.get_by_role("listitem").filter(has_text=browser)


def test_account_from_registration_to_deletion(visit: Visit) -> None:
    email = new_email()
    here = visit(java_script_enabled=False)

    here.goto("/")
    follow(here, "Register")
    here.get_by_label("E-mail").fill(email)
    here.get_by_label("Password").fill(PASSWORD)
    press(here, "Create account")
    expect_heading(here, "Your repositories")
    expect(here.get_by_role("navigation")).to_contain_text(email)

    open_settings(here)
    expect_heading(here, "Settings")
    open_account_menu(here)
    here.get_by_role("navigation").get_by_role("button", name="Sign out").click()
    expect(here.get_by_role("navigation").get_by_role("link", name="Sign in")).to_be_visible()

    follow(here, "Sign in")
    sign_in(here, email, "not my password")
    expect(here.get_by_role("alert")).to_have_text("The e-mail address or the password is wrong.")
    expect(here.get_by_label("E-mail")).to_have_value(email)
    expect(here.get_by_label("Password")).to_have_value("")
    sign_in(here, email)
    expect_heading(here, "Your repositories")

    there = visit(java_script_enabled=False, user_agent=FIREFOX)
    there.goto("/settings")
    expect_heading(there, "Sign in")
    sign_in(there, email)
    expect_heading(there, "Settings")

    open_settings(here)
    expect(row(here, "this browser")).to_contain_text("Chrome on Linux")
    row(here, "Firefox on Windows").get_by_role("button", name="End").click()
    expect(here.get_by_role("status")).to_have_text("The session was ended.")
    expect(row(here, "Firefox on Windows")).to_have_count(0)
    open_settings(there)
    expect_heading(there, "Sign in")

    sign_in(there, email)
    expect_heading(there, "Settings")
    here.get_by_label("Current password").fill(PASSWORD)
    here.get_by_label("New password").fill(NEW_PASSWORD)
    press(here, "Change password")
    expect(here.get_by_role("status")).to_contain_text("Your password was changed")
    open_settings(there)
    expect_heading(there, "Sign in")

    here.get_by_label("Your password").fill(NEW_PASSWORD)
    press(here, "Delete my account")
    expect(here.get_by_role("status")).to_contain_text("Your account and all its data were deleted.")
    follow(here, "Sign in")
    sign_in(here, email, NEW_PASSWORD)
    expect(here.get_by_role("alert")).to_be_visible()


def test_all_other_sessions_end_at_once(visit: Visit) -> None:
    here, there = visit(), visit(user_agent=FIREFOX)
    email = open_account(here)
    there.goto("/login")
    sign_in(there, email)
    expect_heading(there, "Your repositories")
    here.goto("/settings")
    press(here, "End all other sessions")
    expect(here.get_by_role("status")).to_have_text("All your other sessions were ended.")
    expect(here.get_by_role("region", name="Sessions").get_by_role("listitem")).to_have_count(1)
    open_settings(there)
    expect_heading(there, "Sign in")


def test_ended_session_is_no_error(visit: Visit) -> None:
    here, there = visit(), visit(user_agent=FIREFOX)
    email = open_account(here)
    there.goto("/login")
    sign_in(there, email)
    expect_heading(there, "Your repositories")
    here.goto("/settings")
    open_account_menu(there)
    there.get_by_role("button", name="Sign out").click()
    expect(there.get_by_role("link", name="Sign in").first).to_be_visible()
    row(here, "Firefox on Windows").get_by_role("button", name="End").click()
    expect_heading(here, "Settings")
    expect(row(here, "Firefox on Windows")).to_have_count(0)


def test_errors_are_shown_at_their_field(visit: Visit) -> None:
    page = visit()
    email = new_email()
    page.goto("/register")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill("password1")
    press(page, "Create account")
    password = page.get_by_label("Password")
    expect(password).to_have_attribute("aria-invalid", "true")
    expect(password).to_have_accessible_description(re.compile("too common.*At least 8 characters"))
    expect(password).to_be_focused()
    expect(password).to_have_value("")
    expect(page.get_by_label("E-mail")).to_have_value(email)
    expect(page).to_have_title("Error: Register – RepoRadar")


def test_taken_address_is_reported_above_the_form(visit: Visit) -> None:
    page = visit()
    email = open_account(visit())
    page.goto("/register")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    press(page, "Create account")
    expect(page.get_by_role("alert")).to_have_text("An account with this e-mail address exists already.")


def test_settings_require_the_current_password(visit: Visit) -> None:
    page = visit()
    open_account(page)
    for label, button in (("Current password", "Change password"), ("Your password", "Delete my account")):
        page.goto("/settings")
        page.get_by_label("New password").fill(NEW_PASSWORD)
        page.get_by_label(label).fill("not my password")
        press(page, button)
        expect(page.get_by_label(label)).to_have_accessible_description("This is not your password.")
        expect(page.get_by_label(label)).to_be_in_viewport()


def test_too_long_texts_are_refused_before_hashing(visit: Visit) -> None:
    page = visit()
    for label in ("E-mail", "Password"):
        page.goto("/login")
        page.get_by_label("E-mail").fill("someone@example.org")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label(label).fill("someone@" + ".".join(["x" * 60] * 5))
        with page.expect_response("**/login") as answer:
            press(page, "Sign in")
        assert answer.value.status == 422, label
        expect(page.get_by_label(label)).to_have_attribute("aria-invalid", "true")


def test_too_many_attempts_are_refused(visit: Visit, start_instance: StartInstance) -> None:
    page = visit(base_url=start_instance(RATE_LIMIT_LOGIN="1/15min").url)
    page.goto("/login")
    sign_in(page, "someone@example.org")
    with page.expect_response("**/login") as answer:
        sign_in(page, "someone@example.org")
    assert answer.value.status == 429
    assert int(answer.value.headers["retry-after"]) > 0
    expect(page.get_by_role("alert")).to_contain_text("Try again in 15 minutes.")


def test_sign_in_redirects_only_to_this_site(visit: Visit) -> None:
    page = visit()
    email = open_account(page)
    elsewhere = ("//example.org/", "/\\example.org/", "/\t/example.org/", "https://example.org/", "settings", "")
    for path, arrives_at in (("/settings", "/settings"), *((path, "/") for path in elsewhere)):
        page.context.clear_cookies()
        page.goto("/login")
        page.locator("[name=next]").evaluate("(field, path) => { field.value = path }", path)
        sign_in(page, email)
        expect(page, repr(path)).to_have_url(arrives_at)


def test_production_over_plain_http_is_explained_on_the_page(visit: Visit, start_instance: StartInstance) -> None:
    page = visit(base_url=start_instance(APP_ENV="production", SHUTDOWN_DELAY="0").url)
    for path in ("/login", "/register"):
        page.goto(path)
        expect(page.get_by_role("note")).to_contain_text("Signing in does not work at this address.")
        expect(page.get_by_role("note")).to_contain_text("TRUSTED_PROXIES")
