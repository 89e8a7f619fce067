"""The fleet page shows instances that drain, crash and restart, and stays usable during updates."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from harness.fleet import Fleet
from harness.servers import Instance, PostgresServer, RedisServer, promote, wait_until
from tests.browser.conftest import Visit, expect_heading, open_account, open_account_menu
from tests.browser.test_pages import PHONE, assert_fits, assert_legible_in_light_and_dark

WIDE: ViewportSize = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def started(postgres_server: PostgresServer) -> Iterator[Fleet]:
    with Fleet(postgres_server, workers=1, balanced=True) as fleet:
        yield fleet


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    """Both instances are ready, and the stops of earlier tests are forgotten."""
    with started.redis.client() as client:
        client.delete("fleet:stops", "fleet:set-aside")
    for instance in started.instances:
        if instance.status() is not None:
            instance.start(wait_ready=False)
    for instance in started.instances:
        instance.wait_ready()
    return started


@pytest.fixture
def expected_complaints() -> tuple[str, ...]:
    """An instance may close a connection between its handshake and its upgrade, which is then refused."""
    return ("Error during WebSocket handshake: Unexpected response code: 400",)


@pytest.fixture(scope="module")
def administrator(chromium: Browser, started: Fleet) -> Iterator[Any]:
    """The cookies of an administrator."""
    with chromium.new_context(base_url=started.balancer.url) as context:
        open_administrator(context.new_page(), started.instances[0])
        yield context.storage_state()


def open_administrator(page: Page, instance: Instance) -> None:
    promote(instance.environment, open_account(page))


@pytest.fixture
def page(visit: Visit, fleet: Fleet, administrator: Any) -> Page:
    """The page of an administrator, through the balancer."""
    page = visit(base_url=fleet.balancer.url, storage_state=administrator)
    page.goto("/admin/fleet")
    return page


def row(page: Page, number: int) -> Locator:
    heading = page.get_by_role("heading", name=f"instance-{number}", exact=True)
    return page.locator("#instances").get_by_role("listitem").filter(has=heading)


def sockets(page: Page, number: int) -> Locator:
    return row(page, number).locator("dl > div").filter(has_text="Sockets").get_by_role("definition")


def press(page: Page, button: str) -> None:
    """Press a button by keyboard, because pointer clicks are ignored just after rows have moved."""
    page.get_by_role("button", name=button, exact=True).press("Enter")


def expect_verdict(page: Page, words: str) -> None:
    expect(page.locator("#verdict").get_by_role("status")).to_have_text(words)


def expect_refreshes(page: Page, count: int = 1) -> None:
    for _ in range(count):
        seen = page.locator("#freshness").text_content() or ""
        expect(page.locator("#freshness")).not_to_have_text(seen)


def test_page_lists_every_instance(page: Page) -> None:
    page.goto("/")
    open_account_menu(page)
    page.get_by_role("link", name="Fleet").click()
    expect_heading(page, "Fleet")
    expect_verdict(page, "2 of 2 instances are ready")
    for number in (1, 2):
        expect(row(page, number)).to_contain_text(re.compile(r"ready.*up \d+ (second|minute)s?.*version \d", re.DOTALL))
        for label in ("CPU", "Memory", "p95", "Event loop", "Redis", "Database", "Connections", "Sockets"):
            expect(row(page, number).get_by_text(label, exact=True)).to_be_visible()
    expect(page.locator("#stops")).to_contain_text("None so far.")
    expect(page.locator("#freshness")).to_contain_text(re.compile(r"Live: instance-[12] at \d\d:\d\d:\d\d UTC"))
    expect(page.get_by_role("contentinfo")).to_contain_text(re.compile(r"Served by instance instance-[12]"))


def test_drained_instance_loses_its_sockets_and_can_be_reactivated(
    page: Page, visit: Visit, fleet: Fleet, administrator: Any
) -> None:
    page.evaluate("window.loadedOnce = true")
    other = visit(base_url=fleet.balancer.url, storage_state=administrator)
    for _ in range(8):
        if sockets(page, 2).text_content() != "0":
            break
        other.context.new_page().goto(f"{fleet.balancer.url}/settings")
        expect_refreshes(page, 2)
    expect(sockets(page, 2)).not_to_have_text("0")
    other.goto("/admin/fleet")
    press(other, "Drain instance-2")
    expect(other.get_by_role("status").first).to_contain_text("The instance starts draining within two seconds.")
    expect(row(page, 2)).to_contain_text("draining")
    expect(row(page, 2)).to_contain_text("drained by an administrator")
    expect(page.locator("#instances").get_by_role("listitem").first).to_contain_text("instance-2")
    expect_verdict(page, "instance-2 is not ready; 1 of 2 is")
    expect(sockets(page, 2)).to_have_text("0")
    open_pages = len(page.context.pages) + len(other.context.pages)
    # More, where a page that was left has not been missed yet.
    wait_until(lambda: int(sockets(page, 1).text_content() or 0) >= open_pages, what="all sockets to be back")
    press(other, "End drain instance-2")
    expect_verdict(page, "2 of 2 instances are ready")
    assert page.evaluate("window.loadedOnce")


def test_killed_instance_disappears_and_is_listed_as_crashed(page: Page, visit: Visit, fleet: Fleet, administrator: Any) -> None:
    direct = visit(base_url=fleet.instances[1].url, storage_state=administrator)
    direct.goto("/admin/fleet")
    expect(direct.locator("#freshness")).to_contain_text("Live: instance-2")
    fleet.instances[1].kill()
    expect(row(page, 2)).to_have_count(0)
    expect_verdict(page, "1 of 1 instance is ready")
    expect(direct.locator("#freshness")).to_contain_text(re.compile("Not live. No response. Last update: .*, from instance-2"))
    stop = page.locator("#stops").get_by_role("listitem")
    expect(stop).to_contain_text("crashed instance-2 just now")
    expect(stop).to_contain_text("did not sign off")
    expect(page.locator("#verdict")).to_contain_text("instance-2 crashed just now")
    fleet.instances[1].start()
    expect_verdict(page, "2 of 2 instances are ready")
    expect(direct.locator("#freshness")).to_contain_text("Live: instance-2")


def test_clean_stop_shows_its_phases(page: Page, fleet: Fleet) -> None:
    fleet.instances[1].restart()
    stop = page.locator("#stops").get_by_role("listitem")
    expect(stop).to_contain_text(re.compile(r"clean instance-2\s+just now, in \d+\.\d s; longest phase: \w+"))
    stop.get_by_text("Phases").click()
    expect_refreshes(page)
    for phase in ("sockets", "requests", "close"):
        expect(stop.get_by_role("row", name=phase)).to_be_visible()


def test_updates_keep_focus_and_selection(page: Page, fleet: Fleet) -> None:
    press_here = page.get_by_role("button", name="Drain instance-1", exact=True)
    press_here.focus()
    page.request.post("/api/fleet/instances/instance-2/drain")
    expect(page.locator("#instances").get_by_role("listitem").first).to_contain_text("instance-2")
    expect(press_here).to_be_focused()
    page.request.delete("/api/fleet/instances/instance-2/drain")
    expect(page.locator("#instances").get_by_role("listitem").first).to_contain_text("instance-1")
    expect(press_here).to_be_focused()
    expect_verdict(page, "2 of 2 instances are ready")
    page.get_by_role("heading", name="instance-1", exact=True).select_text()
    expect_refreshes(page, 2)
    assert page.evaluate("getSelection().toString()").strip() == "instance-1"


def test_long_press_of_a_button_works(page: Page) -> None:
    page.get_by_role("button", name="Drain instance-2", exact=True).hover()
    page.mouse.down()
    for _ in range(2):  # updates that arrive while the button is pressed
        page.wait_for_event("response", lambda response: "/admin/fleet" in response.url)
    page.mouse.up()
    expect(page.get_by_role("status").first).to_contain_text("The instance starts draining within two seconds.")
    press(page, "End drain instance-2")
    expect_verdict(page, "2 of 2 instances are ready")


PRESS_AT_ONCE = """
detail => {
  const list = document.querySelector(".instances");
  const event = new MouseEvent("click", { detail, bubbles: true, cancelable: true });
  window.addEventListener("click", () => { document.body.dataset.refused = event.defaultPrevented; event.preventDefault(); });
  new MutationObserver(() => list.querySelector("button").dispatchEvent(event)).observe(list, { childList: true });
}
"""


@pytest.mark.parametrize(("detail", "refused"), [(1, True), (0, False)], ids=["pointer", "keyboard"])
def test_click_on_a_row_that_has_just_moved_is_ignored(page: Page, detail: int, refused: bool) -> None:
    expect_refreshes(page)
    page.evaluate(PRESS_AT_ONCE, detail)
    page.request.post("/api/fleet/instances/instance-2/drain")
    expect(page.locator("body")).to_have_attribute("data-refused", "true" if refused else "false")
    page.request.delete("/api/fleet/instances/instance-2/drain")
    expect_verdict(page, "2 of 2 instances are ready")


def test_draining_the_last_ready_instance_requires_confirmation(page: Page) -> None:
    press(page, "Drain instance-1")
    press(page, "Drain instance-2")  # at once, maybe before the first knows
    expect(page.get_by_role("alert")).to_contain_text("instance-2 is the last ready instance")
    page.get_by_role("link", name="Cancel").click()
    expect_verdict(page, "instance-1 is not ready; 1 of 2 is")
    press(page, "Drain instance-2")
    press(page, "Drain it anyway")
    expect_verdict(page, "No instance is ready")
    for number in (1, 2):
        press(page, f"End drain instance-{number}")
    expect_verdict(page, "2 of 2 instances are ready")


def test_without_scripts(visit: Visit, fleet: Fleet, administrator: Any) -> None:
    page = visit(base_url=fleet.balancer.url, storage_state=administrator, java_script_enabled=False)
    page.goto("/admin/fleet")
    expect(page.locator("#freshness")).to_contain_text("As of")
    press(page, "Drain instance-2")
    expect(page.get_by_role("status").first).to_contain_text("The instance starts draining within two seconds.")
    expect(row(page, 2)).to_contain_text("draining")
    page.get_by_role("link", name="Reload").click()
    press(page, "End drain instance-2")
    expect(page.get_by_role("status").first).to_contain_text("The instance is ready again within two seconds.")
    wait_until(lambda: is_back(page), what="instance-2 to be back, as a page shows that is loaded again and again")


def is_back(page: Page) -> bool:
    page.goto("/admin/fleet")
    return page.get_by_role("button", name="Drain instance-2", exact=True).is_visible()


def test_fleet_page_requires_an_administrator(visit: Visit, fleet: Fleet) -> None:
    page = visit(base_url=fleet.balancer.url)
    page.goto("/admin/fleet")
    expect_heading(page, "Sign in")
    open_account(page)
    page.goto("/")
    expect(page.locator("a[href='/admin/fleet']")).to_have_count(0)
    answer = page.goto("/admin/fleet")
    assert answer
    assert answer.status == 403
    expect(page.get_by_role("main")).to_contain_text("This is for administrators.")
    for order in ("drain", "call-back"):
        assert page.request.post(f"/admin/fleet/instances/instance-2/{order}").status == 403


def test_draining_a_missing_instance_is_reported(page: Page) -> None:
    form = page.locator("form").filter(has_text="Drain instance-2")
    form.evaluate("form => { form.action = form.action.replace('-2/', '-7/'); form.submit(); }")  # before the page is renewed
    expect(page.get_by_role("status").first).to_have_text("This instance has stopped.")


@contextmanager
def in_trouble(redis: RedisServer) -> Iterator[None]:
    """Register an instance with every kind of problem, and a worker that sends no heartbeat any more."""
    about = {
        **{
            "instance_id": "instance-3",
            "nonce": "3",
            "hostname": "a-machine-of-a-name-that-is-long",
            "pid": 17,
            "uptime": 40_000,
        },
        **{"start_time": "2026-11-01T00:00:00.000Z", "status": "ready", "version": "0.1.0", "config_fingerprint": "other"},
        **{"cpu_percent": 98.4, "memory_percent": 91.0, "p95_ms": 1834.0, "loop_delay_ms": 71.3, "redis_latency_ms": 14.0},
        **{"database_latency_ms": 80.0, "connections": 1544, "sockets": 1290, "obstacles": ["redis has failed for 14 s"]},
        "advice": [
            {"instance_id": "instance-3", "metric": "cpu_percent", "value": 98.4, "threshold": 70, "action": "Add an instance"}
            | {"cause": "CPU 98 % of the one core that an instance can use."}
        ],
        "disagreements": [{"kind": "keys", "instance_ids": ["instance-3"], "message": "holds no key that the fleet writes with"}],
    }
    stops = [{"instance_id": "instance-3", "nonce": f"stop-{number}", "at": int(time.time() * 1000)} for number in range(12)]
    forced = {"kind": "forced", "seconds": 25.0, "summary": "forced in 25.00 s: requests 1 in 20.00 s (not done in time)"}
    names = {key: about[key] for key in ("hostname", "pid", "start_time", "uptime", "version")}
    worker = names | {"instance_id": "worker-3", "nonce": "w3", "status": "running", "running_jobs": 1, "max_jobs": 4}
    worker["finished_jobs"] = 1204
    over = threading.Event()

    def beat() -> None:
        with redis.client() as client:
            client.hset("fleet:workers", "w3", json.dumps({"about": worker, "crash_record": {}}))
            client.rpush("fleet:stops", *[json.dumps(stop | forced) for stop in stops])
            while not over.wait(0.2):
                entry: dict[str, Any] = {
                    "instance_id": "instance-3",
                    "status": "ready",
                    "pool": 5,
                    "keys": {},
                    "hostname": "",
                    "pid": 1,
                }
                seen = int(client.time()[0]) * 1000
                client.zadd("fleet:worker-heartbeats", {"w3": seen - 5000})
                client.hset(
                    "fleet:instance:3",
                    mapping={"entry": json.dumps(entry), "about": json.dumps(about), "since": seen, "seen": seen},
                )
                client.hset(
                    "fleet:instances", "3", json.dumps({**stops[0], "kind": "crashed", "seconds": None, "summary": "gone"})
                )
            client.zrem("fleet:worker-heartbeats", "w3")
            client.delete("fleet:instance:3")
            client.hdel("fleet:instances", "3")

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def test_worst_instance_comes_first_and_is_legible(page: Page, fleet: Fleet) -> None:
    with in_trouble(fleet.redis):
        expect_verdict(page, "instance-3 is not ready; 2 of 3 are")
        order = page.locator("#fleet > section").evaluate_all("sections => sections.map(section => section.id)")
        assert order == ["verdict", "disagreements", "advice", "instances", "workers", "stops"]
        expect(page.locator("#instances").get_by_role("listitem").first).to_contain_text("instance-3")
        expect(page.locator("#disagreements")).to_contain_text("instance-3: holds no key that the fleet writes with")
        expect(page.locator("#advice")).to_contain_text("Add an instance. instance-3: CPU 98 %")
        expect(row(page, 3).locator(".high")).to_have_text(
            [
                *("CPU98 % > 70 %", "Memory91 % > 80 %", "p951,834 ms > 500 ms", "Event loop71 ms > 20 ms"),
                *("Redis14 ms > 10 ms", "Database80 ms > 50 ms", "Connections1,544 > 1,000"),
            ]
        )
        expect(page.locator("#stops li:visible")).to_have_count(8)
        expect(page.locator("#workers tbody tr")).to_have_count(2)
        expect(page.locator("#worker-w3")).to_contain_text(re.compile(r"worker-3\s*missing\s*1 of 4\s*1,204"))
        expect(page.locator("#verdict")).to_contain_text("worker-3: no heartbeat for more than 3 s")
        for size in (PHONE, WIDE):
            assert_fits(page, size)
            assert_legible_in_light_and_dark(page)
    expect_verdict(page, "2 of 2 instances are ready")


def test_page_reports_a_store_outage_and_retries(page: Page, fleet: Fleet) -> None:
    with fleet.redis.lost():
        expect(page.locator("#freshness")).to_contain_text(
            re.compile("Not live. instance-[12] answers with 503. Last update: .*, from instance-[12]"),
        )
        other = page.context.new_page()
        answer = other.goto("/admin/fleet")
        assert answer
        assert answer.status == 503
        expect(other.get_by_role("main")).to_contain_text("Try again in a moment.")
    expect(page.locator("#freshness")).to_contain_text("Live: instance-")


def test_fleet_page_reports_the_end_of_the_session(visit: Visit, fleet: Fleet) -> None:
    page = visit(base_url=fleet.balancer.url)
    open_administrator(page, fleet.instances[0])
    page.goto("/admin/fleet")
    expect(page.locator("#freshness")).to_contain_text("Live")
    page.request.post("/api/auth/logout")
    expect(page.locator("#freshness")).to_contain_text("Not live: sign in as an administrator to see this page.")
    expect(page.get_by_role("alert")).to_contain_text("Your session has ended")


def test_embedded_instance_shows_itself(visit: Visit, instance: Instance) -> None:
    page = visit()
    open_administrator(page, instance)
    page.goto("/admin/fleet")
    expect_verdict(page, "1 of 1 instance is ready")
    expect(page.locator("#stops")).to_contain_text("They are in the log")
    page.get_by_role("button", name=re.compile("^Drain")).click()
    page.get_by_role("button", name="Drain it anyway").click()
    expect_verdict(page, "No instance is ready")
    page.get_by_role("button", name=re.compile("^End drain")).click()
    expect_verdict(page, "1 of 1 instance is ready")
