"""The analytics page: date ranges, live updates and accessibility."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from app.analytics.catalogue import DECLARED_EVENTS, FUNNELS, PAGE_VIEWED
from app.core import config
from app.core.keyring import Keyring
from app.core.messages import ANALYTICS_ROOM, Message, Publish
from app.database.engine import Database
from app.realtime.publisher import RedisPublisher
from app.redis.client import connect
from harness.recorded import event, record
from harness.servers import Instance, PostgresServer, RedisServer, fleet_environment
from tests.browser.conftest import Visit, expect_heading, open_account_menu
from tests.browser.test_fleet_page import open_administrator
from tests.browser.test_live import expect_live
from tests.browser.test_pages import PHONE, assert_fields_have_labels, assert_fits, assert_legible_in_light_and_dark

WIDE: ViewportSize = {"width": 1280, "height": 900}


class Counted(NamedTuple):
    """An instance, with a database and a publisher to store and announce events as a worker does."""

    instance: Instance
    database: Database
    publish: Publish


@pytest.fixture
def expected_complaints() -> tuple[str, ...]:
    """A test disconnects the browser from the network."""
    return ("net::ERR_INTERNET_DISCONNECTED",)


@pytest.fixture(scope="module")
def started(postgres_server: PostgresServer) -> Iterator[Counted]:
    with RedisServer() as redis:
        environment = fleet_environment(redis.url, postgres_server.create_database(), RATE_LIMIT_REGISTER="1000/h")
        settings = config.load(environment)
        database = Database(settings.database_url, 2, "test")
        with Instance(environment) as instance, connect(settings, "test") as client:
            signing = Keyring("signing", tuple(secret.encode() for secret in settings.session_secret))
            yield Counted(instance, database, RedisPublisher(client, signing).publish)
        database.close()


@pytest.fixture(scope="module")
def administrator(chromium: Browser, started: Counted) -> Iterator[Any]:
    """The cookies of an administrator, with some events of today and of last month in the database."""
    now = datetime.now(UTC)
    record(
        started.database,
        *[event(kind.name, now, "ada") for kind in DECLARED_EVENTS],
        *[event(PAGE_VIEWED, now - timedelta(days=40), f"visitor {number}", "/averylongpath" * 10) for number in range(50)],
    )
    with chromium.new_context(base_url=started.instance.url) as context:
        open_administrator(context.new_page(), started.instance)
        yield context.storage_state()


@pytest.fixture
def visit_analytics(visit: Visit, started: Counted, administrator: Any) -> Visit:
    def open_page(path: str = "/admin/analytics", **options: Any) -> Page:
        page = visit(base_url=started.instance.url, storage_state=administrator, **options)
        page.goto(path)
        return page

    return open_page


def total(page: Page) -> int:
    return int((page.locator("#total").text_content() or "").replace(",", ""))


def test_administrator_opens_analytics_and_chooses_a_range(visit_analytics: Visit) -> None:
    page = visit_analytics("/")
    open_account_menu(page)
    page.get_by_role("link", name="Analytics").click()
    expect_heading(page, "Analytics")
    expect(page.get_by_role("link", name="30 days")).to_have_attribute("aria-current", "true")
    recent = total(page)
    page.get_by_role("link", name="12 months").click()
    expect(page.get_by_role("link", name="12 months")).to_have_attribute("aria-current", "true")
    assert total(page) == recent + 50
    page.get_by_role("link", name="Last 24 hours").click()
    expect(page.locator("#insights")).to_contain_text("by the hour")
    assert total(page) == recent


def test_custom_and_invalid_dates(visit_analytics: Visit) -> None:
    page = visit_analytics()
    day = (datetime.now(UTC) - timedelta(days=40)).date().isoformat()
    page.get_by_label("From").fill(day)
    page.get_by_label("To, inclusive").fill(day)
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(f"from={day}&to={day}"))
    assert total(page) == 50
    page.get_by_label("From").fill("2025-01-01")
    page.get_by_label("To, inclusive").fill("2024-01-01")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_label("From")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#from-error")).to_have_text("from must be before to.")


def test_stored_events_are_counted_live(visit_analytics: Visit, started: Counted) -> None:
    page = visit_analytics()
    expect_live(page)
    expect(page.locator("#stored")).to_have_text("0 events stored since you opened this page")
    page.get_by_text("As a table").click()
    before = total(page)
    for number in range(3):
        record(started.database, *[event("signed_up", datetime.now(UTC), f"live {number}") for _ in range(5)])
        started.publish([Message(ANALYTICS_ROOM, "events_stored", {"count": 5})])
    expect(page.locator("#stored")).to_have_text("15 events stored since you opened this page")
    expect(page.locator("#total")).to_have_text(str(before + 15))
    expect(page.get_by_role("table", name="Events and visitors over time")).to_be_visible()  # what was opened stays open
    started.publish([Message(ANALYTICS_ROOM, "events_stored", {"count": 1000})])
    expect(page.locator("#stored")).to_have_text("1,015 events stored since you opened this page")


def test_page_reports_possibly_missed_events_after_a_reconnect(visit_analytics: Visit, started: Counted) -> None:
    page = visit_analytics()
    expect_live(page)
    started.publish([Message(ANALYTICS_ROOM, "events_stored", {"count": 2})])
    expect(page.locator("#stored")).to_have_text("2 events stored since you opened this page")
    page.context.set_offline(True)
    page.evaluate(
        "import(document.querySelector('script[src$=\"live.js\"]').src).then(({ live }) => live.socket.io.engine.close())"
    )
    expect_live(page, "Reconnecting …")
    page.context.set_offline(False)
    expect(page.locator("#stored")).to_have_text("At least 2 events stored since you opened this page")


def test_analytics_page_works_without_scripts(visit_analytics: Visit) -> None:
    page = visit_analytics(java_script_enabled=False)
    expect(page.locator("#stored")).to_be_hidden()
    page.get_by_role("link", name="7 days").click()
    page.get_by_text("As a table").click()
    expect(page.get_by_role("table", name="Events and visitors over time").get_by_role("row")).to_have_count(8)
    for steps in FUNNELS:
        expect(page.get_by_role("heading", name=steps)).to_be_visible()


def test_analytics_page_fits_and_is_legible(visit_analytics: Visit) -> None:
    page = visit_analytics()
    for query in ("", "?range=24h", "?range=12m", "?from=2024-01-01&to=2024-01-02", "?from=x"):
        page.goto(f"/admin/analytics{query}")
        expect(page.locator("#stored")).to_be_visible()
        for size in (WIDE, PHONE):
            assert_fits(page, size)
            assert_legible_in_light_and_dark(page)
        assert_fields_have_labels(page)
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
