"""Live updates of an open page: notifications, the connection state, and polling without a connection."""

import time
from contextlib import closing

from playwright.sync_api import Page, Route, expect

from app.auth import store as accounts
from app.notifications import store as notifications
from harness.schema import open_database
from harness.servers import Instance, flask
from tests.browser.conftest import HeldGit, MakeRepository, StartInstance, Visit, add, expect_heading, open_account


def notify(instance: Instance, email: str, message: str, count: int = 1) -> None:
    """Store notifications as `flask notify` does, without a process of its own. The instance finds them in the database."""
    with closing(open_database(instance.environment["DATABASE_URL"])) as database:
        user = database.run(accounts.by_email, email)
        assert user
        for _ in range(count):
            database.run(notifications.add, [user.id], "message", message, {})


def expect_live(page: Page, state: str = "Live") -> None:
    expect(page.get_by_role("contentinfo")).to_contain_text(state)


def expect_unread(page: Page, count: int) -> None:
    expect(page.get_by_role("link", name=f"Notifications {count} unread")).to_be_visible()


def test_notification_arrives_on_every_page(visit: Visit, instance: Instance) -> None:
    page = visit()
    email = open_account(page)
    page.goto("/settings")
    expect_live(page)
    flask(instance.environment, "notify", email, "<b>Hello</b>")
    expect(page.locator("#toasts")).to_contain_text("<b>Hello</b>")
    expect_unread(page, 1)
    expect(page).to_have_title("(1) Settings – RepoRadar")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#toasts")).to_be_empty()


def test_indicator_says_connecting_until_the_first_connection(visit: Visit) -> None:
    page = visit()
    open_account(page)
    page.route("**/socket.io/**", lambda route: None)  # without an answer
    page.route_web_socket("**/socket.io/**", lambda socket: None)
    page.goto("/settings")
    expect(page.get_by_role("contentinfo")).to_contain_text("Connecting …")  # before the first attempt has failed
    page.unroute("**/socket.io/**")
    page.goto("/")
    expect_live(page)


def test_notification_list_grows_and_is_marked_as_read(visit: Visit, instance: Instance) -> None:
    page = visit()
    email = open_account(page)
    page.goto("/notifications")
    expect(page.get_by_role("heading", name="No notifications yet")).to_be_visible()
    expect_live(page)
    notify(instance, email, "One")
    entries = page.get_by_role("main").get_by_role("listitem")
    expect(entries).to_have_count(1)
    expect(entries.first).to_contain_text("new One")
    page.get_by_role("button", name="Mark all as read").click()
    expect(page.get_by_role("status")).to_have_text("All notifications are marked as read.")
    expect(entries.first).not_to_contain_text("new")
    expect(page).to_have_title("Notifications – RepoRadar")


def test_reading_in_one_tab_updates_the_others(visit: Visit, instance: Instance) -> None:
    page = visit()
    email = open_account(page)
    notify(instance, email, "Number", count=3)
    others = [page.context.new_page() for _ in range(2)]
    for other, address in zip(others, ("/settings", "/notifications"), strict=True):
        other.goto(address)
        expect_live(other)
        expect_unread(other, 3)
    page.goto("/notifications")
    notify(instance, email, "Number")
    page.get_by_role("button", name="Mark all as read").click()
    for other in others:
        expect_unread(other, 1)
    expect(others[1].get_by_role("main").get_by_text("new", exact=True)).to_have_count(1)


def test_notifications_work_without_scripts(visit: Visit, instance: Instance) -> None:
    page = visit(java_script_enabled=False)
    email = open_account(page)
    notify(instance, email, "Number", count=60)
    page.goto("/notifications")
    expect_unread(page, 60)
    entries = page.get_by_role("main").get_by_role("listitem")
    expect(entries).to_have_count(50)
    page.get_by_role("link", name="Older").click()
    expect(entries).to_have_count(10)
    page.get_by_role("link", name="Newest").click()
    page.get_by_role("button", name="Mark all as read").click()
    expect(page.get_by_role("button", name="Mark all as read")).to_have_count(0)


def test_every_notification_page_has_an_address(visit: Visit) -> None:
    page = visit()
    open_account(page)
    for query in ("?before=1", "?before=-5", "?before=99999999999999999999999", "?before=x"):
        answer = page.goto(f"/notifications{query}")
        assert answer
        assert answer.status == 200, query
        expect(page.get_by_role("heading", level=2)).to_be_visible()


def test_notification_of_an_analysis_links_to_its_report(visit: Visit, make_repository: MakeRepository) -> None:
    page = visit()
    open_account(page)
    path = make_repository()
    add(page, path)
    expect_unread(page, 1)
    page.goto("/notifications")
    page.get_by_role("main").get_by_role("link", name=path.name).click()
    expect_heading(page, path.name)


def test_repository_added_in_one_tab_appears_in_the_others(visit: Visit, make_repository: MakeRepository) -> None:
    page = visit()
    open_account(page)
    page.goto("/")
    expect_live(page)
    for number in (1, 2):
        path = make_repository()
        page.request.post("/api/repositories", data={"url": str(path)})  # as another tab does
        expect(page.get_by_role("main").get_by_role("link", name=path.name)).to_be_visible()
        expect(page.locator("[data-repository]")).to_have_count(number)
    expect(page.get_by_role("searchbox", name="Search")).to_be_visible()
    page.get_by_role("checkbox").first.check()
    expect(page.get_by_role("button", name="Compare selected")).to_be_in_viewport()


def test_notifications_during_an_outage_arrive_once(visit: Visit, start_instance: StartInstance) -> None:
    instance = start_instance()
    page = visit(base_url=instance.url)
    email = open_account(page)
    page.goto("/notifications")
    expect_live(page)
    instance.stop()
    expect_live(page, "Reconnecting …")
    notify(instance, email, "Missed", count=3)
    instance.start()
    expect_live(page, "Caught up")
    expect_unread(page, 3)
    expect(page.get_by_role("main").get_by_role("listitem")).to_have_count(3)
    expect_live(page)


def test_page_reports_the_end_of_the_session(visit: Visit) -> None:
    page = visit()
    open_account(page)
    page.goto("/settings")
    expect_live(page)
    page.request.post("/api/auth/logout")
    expect(page.get_by_role("alert")).to_contain_text("Your session has ended")
    expect_live(page, "Signed out")
    page.get_by_role("link", name="Sign in again").click()
    expect_heading(page, "Sign in")


def test_page_polls_without_sockets(visit: Visit, make_repository: MakeRepository, held_git: HeldGit) -> None:
    page = visit()
    open_account(page)
    page.route("**/socket.io/?**", _refuse)
    add(page, make_repository())
    expect_live(page, "Connecting …")
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.evaluate("window.loadedOnce = true")
    held_git.release()
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible()
    assert page.evaluate("window.loadedOnce")


DRAIN = """
async () => {
    const { live } = await import(document.querySelector("script[src$='/live.js']").src);
    const isLive = new Promise((resolve) => live.on("live", resolve));
    const [receive] = live.socket.listenersAny();
    receive("draining", { reconnect_in_ms: 0, reason: "stop" });
    return (await isLive).handedOver;
}
"""


def test_page_reads_the_state_of_an_analysis_again_after_a_hand_over(
    visit: Visit, make_repository: MakeRepository, held_git: HeldGit
) -> None:
    """An event of the analysis may have been lost between the two sockets."""
    page = visit()
    open_account(page)
    page.clock.set_fixed_time(time.time())  # so that the page does not poll
    add(page, make_repository())
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect_live(page)
    with page.expect_request("**/api/analyses/*"):
        assert page.evaluate(DRAIN)


def test_page_is_live_with_long_polling_only(visit: Visit, instance: Instance) -> None:
    page = visit()
    email = open_account(page)
    page.add_init_script("delete window.WebSocket")
    held: list[Route] = []
    page.route("**/socket.io/?**", lambda route: held.append(route), times=1)
    page.goto("/settings")
    expect(page.get_by_role("contentinfo")).to_contain_text("Connecting …")  # before the first attempt has failed
    held[0].continue_()
    expect_live(page)
    notify(instance, email, "Polled")
    expect_unread(page, 1)


def _refuse(route: Route) -> None:
    route.fulfill(status=503)


# A hand-over between two sockets without a server. They record what is sent over them, and the test answers.
HAND_OVER = """
async () => {
    const { LiveSocket } = await import("/static/live-socket.js");
    const sockets = [];
    let sendAnswer;
    const answer = new Promise((resolve) => (sendAnswer = resolve));
    function io() {
        const sent = [];
        const socket = {
            sent, id: sockets.length, connected: true, active: true,
            io: { opts: {}, reconnection() {}, reconnectionDelay() {}, reconnectionDelayMax() {} },
            on() {},
            onAny(receive) { socket.receive = receive; },
            emit(event, { repository_id }) { sent.push(`${event} ${repository_id}`); },
            timeout: () => ({ emitWithAck: (event, data) => (socket.emit(event, data), answer) }),
            disconnect() { socket.connected = false; },
        };
        sockets.push(socket);
        return socket;
    }
    const becomesLive = () => new Promise((resolve) => live.on("live", resolve));
    const live = new LiveSocket(io, { after: 0 });
    const [first] = sockets;
    const firstIsLive = becomesLive();
    first.receive("ready", { head: 0, recovered: true });
    await firstIsLive;
    live.watch(1);
    first.receive("draining", { reconnect_in_ms: 0, reason: "stop" });
    while (!sockets[1]) await new Promise(requestAnimationFrame);
    const [, next] = sockets;
    next.receive("ready", { head: 0, recovered: true });
    live.watch(2);
    const nextIsLive = becomesLive();
    sendAnswer({ ok: true });
    const { handedOver } = await nextIsLive;
    return [first.sent, next.sent, handedOver, first.connected];
}
"""


def test_request_that_is_made_during_a_hand_over_reaches_both_sockets(visit: Visit) -> None:
    page = visit()
    page.goto("/login")
    assert page.evaluate(HAND_OVER) == [["watch 1", "watch 2"], ["watch 1", "watch 2"], True, False]
