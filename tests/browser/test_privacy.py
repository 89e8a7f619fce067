"""The events that the browser sends until an opt-out, and the pages for the opt-out."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from harness.servers import Instance
from tests.browser.conftest import PASSWORD, MakeRepository, StartInstance, Visit, add, expect_heading, open_account
from tests.browser.test_live import expect_live, notify
from tests.browser.test_pages import assert_fits_a_phone, assert_legible_in_light_and_dark

NO, YES, ERASE = "Don’t count me", "Count me again", "Erase my events"
CLAIMS_GPC = "Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })"
REMEMBERS = "document.addEventListener('analytics-off', () => document.body.classList.add('fell-silent'))"
TRACK = "async (name) => (await import(document.querySelector(`script[src$='analytics.js']`).src)).track(name, 'test')"
TRACK_MANY = """async (number) => {
  const { track } = await import(document.querySelector("script[src$='analytics.js']").src);
  for (let i = 0; i < number; i++) track("many", "test", { i });
}"""
SCRIPT = "script[src$='analytics.js']"


class Beacons:
    """The event requests of the whole browser context, because requests at page unload do not belong to the page."""

    ADDRESS = "/api/analytics/events"

    def __init__(self, browser: Browser) -> None:
        self._sent: list[str] = []
        self._session = browser.new_browser_cdp_session()
        self._session.on("Fetch.requestPaused", self._note)
        self._session.send("Fetch.enable", {"patterns": [{"urlPattern": f"*{self.ADDRESS}*"}]})

    def _note(self, paused: dict[str, Any]) -> None:
        self._sent.append(paused["request"]["url"].partition(self.ADDRESS)[2])
        self._session.send("Fetch.continueRequest", {"requestId": paused["requestId"]})

    def count(self, page: Page) -> int:
        """Return the events since the last call, after an event that this page sends now has arrived."""
        page.evaluate("address => navigator.sendBeacon(address)", f"{self.ADDRESS}?last")
        eventually(page, lambda: "?last" in self._sent)
        count = self._sent.index("?last")
        self._sent.clear()
        return count

    def close(self) -> None:
        self._session.detach()


@pytest.fixture
def beacons(chromium: Browser) -> Iterator[Beacons]:
    watched = Beacons(chromium)
    yield watched
    watched.close()


def press(page: Page, name: str) -> None:
    page.get_by_role("main").get_by_role("button", name=name).click()


def say_no(page: Page) -> None:
    page.goto("/privacy")
    press(page, NO)
    expect(page.get_by_role("status")).to_contain_text("You have opted out.")


def leave(page: Page) -> None:
    """Open a page without scripts, so that the page before sends all its events."""
    page.goto("/login")
    expect_heading(page, "Sign in")


def stored(instance: Instance, name: str) -> list[dict[str, Any]]:
    """Return the properties of all events with this name."""
    path = instance.environment["DATABASE_URL"].removeprefix("sqlite:///")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        found = database.execute("SELECT properties FROM analytics_events WHERE name = ? ORDER BY occurred_at", [name])
        return [json.loads(properties) for (properties,) in found]


def eventually(page: Page, condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come true")


def test_page_leave_is_recorded_until_an_opt_out(visit: Visit, beacons: Beacons) -> None:
    page = visit()
    page.goto("/privacy")
    leave(page)
    assert beacons.count(page) == 1
    say_no(page)
    beacons.count(page)  # the page was left when the no was on its way
    for path in ("/", "/privacy"):
        page.goto(path)
        expect(page.locator(SCRIPT)).to_have_count(0)
    leave(page)
    assert beacons.count(page) == 0


@pytest.mark.parametrize("says_no", [False, True])
def test_opt_out_applies_in_another_open_tab(visit: Visit, beacons: Beacons, says_no: bool) -> None:
    page = visit()
    other = page.context.new_page()
    other.goto("/privacy")
    other.evaluate(TRACK, "before")
    if says_no:
        say_no(page)
        beacons.count(page)
    other.evaluate(TRACK, "after")
    leave(other)
    assert bool(beacons.count(other)) is not says_no


def two_browsers(visit: Visit) -> tuple[Page, Page]:
    """Two browsers of one account; the page of the second one records what happens to it."""
    page, elsewhere = visit(), visit()
    email = open_account(page)
    elsewhere.request.post("/api/auth/login", data={"email": email, "password": PASSWORD})
    elsewhere.goto("/settings")
    expect_live(elsewhere)
    elsewhere.evaluate(REMEMBERS)
    return page, elsewhere


@pytest.mark.parametrize("says_no", [False, True])
def test_opt_out_applies_in_another_browser_of_the_account(visit: Visit, beacons: Beacons, says_no: bool) -> None:
    page, elsewhere = two_browsers(visit)
    elsewhere.evaluate(TRACK, "before")
    if says_no:
        say_no(page)
        expect(elsewhere.locator("body.fell-silent")).to_be_attached()
        beacons.count(page)
    elsewhere.evaluate(TRACK, "after")
    leave(elsewhere)
    assert bool(beacons.count(elsewhere)) is not says_no


@pytest.mark.parametrize("says_no", [False, True])
def test_opt_out_reaches_a_page_that_was_disconnected(visit: Visit, beacons: Beacons, says_no: bool) -> None:
    page, elsewhere = two_browsers(visit)
    elsewhere.route("**/socket.io/**", lambda route: route.abort())
    elsewhere.evaluate(
        "async () => (await import(document.querySelector(`script[src$='live.js']`).src)).live.socket.disconnect()"
    )
    if says_no:
        say_no(page)
        beacons.count(page)
    expect(elsewhere.locator("body.fell-silent")).not_to_be_attached()
    elsewhere.unroute("**/socket.io/**")
    expect_live(elsewhere)
    if says_no:
        expect(elsewhere.locator("body.fell-silent")).to_be_attached()
    elsewhere.evaluate(TRACK, "after")
    leave(elsewhere)
    assert bool(beacons.count(elsewhere)) is not says_no


def test_browser_with_global_privacy_control_sends_nothing(visit: Visit, beacons: Beacons) -> None:
    page = visit(extra_http_headers={"Sec-GPC": "1"})
    page.goto("/privacy")
    expect(page.locator(SCRIPT)).to_have_count(0)
    expect(page.get_by_role("main")).to_contain_text("because your browser asks for that")
    leave(page)
    assert beacons.count(page) == 0


def test_script_only_global_privacy_control_sends_nothing(visit: Visit, beacons: Beacons) -> None:
    page = visit()
    page.add_init_script(CLAIMS_GPC)
    page.goto("/privacy")
    expect(page.locator(SCRIPT)).to_have_count(1)
    page.evaluate(TRACK, "anything")
    leave(page)
    assert beacons.count(page) == 0


def test_page_and_notification_events_have_the_declared_properties(
    visit: Visit, start_instance: StartInstance, make_repository: MakeRepository, root: Path
) -> None:
    instance = start_instance(REPOSITORY_ROOTS=str(root))
    page = visit(base_url=instance.url)
    email = open_account(page)
    path = make_repository()
    add(page, path)
    page.wait_for_load_state()
    page.goto("/notifications")
    page.get_by_role("main").get_by_role("link", name=path.name).click()
    expect_heading(page, path.name)
    page.wait_for_load_state()
    leave(page)
    eventually(page, lambda: len(stored(instance, "page_left")) == 4)
    left = stored(instance, "page_left")
    paths = ["/", "/repositories/<id>", "/notifications", "/repositories/<id>"]
    assert sorted(told["path"] for told in left) == sorted(paths)  # they may pass each other on their way
    assert {type(told["seconds"]) for told in left} == {int}
    assert stored(instance, "notification_followed") == [{}]
    page.goto("/notifications")
    expect_live(page)
    notify(instance, email, "Hello")  # leads nowhere
    expect(page.locator("#toasts")).to_contain_text("Hello")
    expect(page.locator("#toasts [data-track]")).to_have_count(0)


def test_events_are_sent_in_batches_of_at_most_100(visit: Visit) -> None:
    page = visit()
    page.goto("/privacy")
    page.evaluate("() => { navigator.sendBeacon = async (url, body) => { document.body.dataset.batch = await body.text(); }; }")
    page.evaluate(TRACK_MANY, 150)
    expect(page.locator("body")).to_have_attribute("data-batch", re.compile("many"))
    batch = json.loads(page.locator("body").get_attribute("data-batch") or "")
    assert [one["properties"]["i"] for one in batch["events"]] == list(range(100))
    assert len({one["id"] for one in batch["events"]}) == 100


@pytest.mark.parametrize("signed_in", [False, True])
def test_opt_out_and_opt_in_without_scripts(visit: Visit, signed_in: bool) -> None:
    page = visit(java_script_enabled=False)
    if signed_in:
        open_account(page)
    main, status = page.get_by_role("main"), page.get_by_role("status")
    page.goto("/")
    page.get_by_role("contentinfo").get_by_role("link", name="Privacy").click()
    expect_heading(page, "Privacy")
    expect(main).to_contain_text("You are counted.")
    press(page, NO)
    expect(status).to_contain_text("Nothing that you do from now on is stored")
    expect(main).to_contain_text(f"because {'your account' if signed_in else 'this browser'} has opted out.")
    expect(main.get_by_text("Nothing that you did after").locator("time")).to_contain_text(" UTC")
    press(page, YES)
    expect(status).to_contain_text("You have opted in.")
    expect(main).to_contain_text("You are counted.")
    press(page, ERASE)
    expect(status).to_contain_text("erased. What was stored before")
    expect(status).to_contain_text("00:00 UTC")


def test_settings_offer_the_opt_out(visit: Visit) -> None:
    page = visit(java_script_enabled=False)
    open_account(page)
    page.goto("/settings")
    press(page, NO)
    expect(page).to_have_url("/settings?done=uncounted")
    expect(page.get_by_role("main")).to_contain_text("because your account has opted out.")
    press(page, YES)
    expect(page).to_have_url("/settings?done=counted")


def test_opt_out_with_global_privacy_control(visit: Visit) -> None:
    page = visit(extra_http_headers={"Sec-GPC": "1"})
    page.goto("/privacy")
    press(page, "Opt out here too")
    expect(page.get_by_role("main")).to_contain_text("because this browser has opted out.")
    again = page.get_by_role("button", name=YES)
    expect(again).to_be_disabled()
    expect(again).to_have_accessible_description(
        "Your browser also sends Global Privacy Control, which is an opt-out too. "
        "To be counted, first switch it off in the settings of your browser."
    )


def test_privacy_page_works_by_keyboard(visit: Visit) -> None:
    page = visit()
    page.goto("/privacy")
    page.get_by_role("main").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=NO)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("You have opted out.")


@pytest.mark.parametrize("gpc", [False, True])
def test_page_after_an_opt_out_fits_and_is_legible(visit: Visit, gpc: bool) -> None:
    page = visit(extra_http_headers={"Sec-GPC": "1"} if gpc else {})
    page.goto("/privacy")
    press(page, "Opt out here too" if gpc else NO)
    press(page, ERASE)
    expect(page.get_by_role("status")).to_contain_text("erased")
    page.wait_for_load_state()  # colours come from the stylesheet
    assert_fits_a_phone(page)
    assert_legible_in_light_and_dark(page)
