"""The official JavaScript client in Chromium loses no notification while an instance and Redis restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from playwright.sync_api import Browser, Page

from app.core import config
from app.core.messages import user_room
from app.realtime.publisher import Publisher
from harness.fleet import Fleet
from harness.servers import PostgresServer, flask, wait_until
from harness.sockets import NO_FAULTS, delivery_faults
from harness.users import PASSWORD, User

COUNT, PER_SECOND = 300, 100

LISTEN = """
async (transports) => {
    const { io } = await import("/static/vendor/socket.io.esm.min.js");
    window.seqs = []; window.readies = 0; window.ended = null; window.connections = 0;
    let after;
    const options = { reconnectionDelay: 100, reconnectionDelayMax: 500, auth: (answer) => answer({ after }) };
    window.client = io(transports ? { transports, ...options } : options);
    client.on("connect", () => { window.connections += 1; });
    client.on("ready", ({ head }) => { window.readies += 1; after ??= head; });
    client.on("notification", ({ seq }) => { window.seqs.push(seq); after = seq; });
    client.on("session_ended", ({ reason }) => { window.ended = reason; });
}
"""


def listen(chromium: Browser, url: str, user: User, transports: list[str] | None) -> Page:
    context = chromium.new_context(base_url=url)
    context.add_cookies([{"name": "reporadar_session", "value": user.cookie, "url": url}])
    page = context.new_page()
    page.goto("/health/live")
    page.evaluate(LISTEN, transports)
    wait_until(lambda: page.evaluate("readies"), what="the event ready")
    return page


def test_javascript_client_loses_nothing_and_stops_after_logout(chromium: Browser, postgres_server: PostgresServer) -> None:
    with Fleet(postgres_server, balanced=True) as fleet, ExitStack() as stack:
        user = User(fleet.instances[1]).register()
        kinds = [["polling"], ["polling"], None, None, ["websocket"]]
        pages = [listen(chromium, fleet.balancer.url, user, transports) for transports in kinds]
        for page in pages:
            stack.callback(page.context.close)

        options = ["hello", "--count", str(COUNT), "--rate", str(PER_SECOND)]
        sender = stack.enter_context(ThreadPoolExecutor()).submit(flask, fleet.environment, "notify", user.email, *options)
        wait_until(lambda: all(page.evaluate("seqs.length") for page in pages), timeout=30, what="the first notifications")
        fleet.instances[0].kill()
        fleet.redis.restart()
        fleet.instances[0].start()
        sender.result()
        wait_until(lambda: all(page.evaluate("seqs.at(-1)") == COUNT for page in pages), timeout=30, what="the last notification")
        assert [delivery_faults(page.evaluate("seqs"), COUNT) for page in pages] == [NO_FAULTS] * len(pages)
        assert sum(page.evaluate("connections") for page in pages) > len(pages)

        assert user.post("/api/auth/logout").status_code == 204
        wait_until(lambda: all(page.evaluate("ended") == "signed_out" for page in pages), what="the event session_ended")
        wait_until(lambda: not any(page.evaluate("client.connected || client.active") for page in pages), what="the end")


SIGN_IN_AGAIN = """
async (body) => {
    const headers = { "Content-Type": "application/json" };
    return (await fetch("/api/auth/login", { method: "POST", headers, body: JSON.stringify(body) })).status;
}
"""


def test_javascript_client_opens_a_new_connection_after_another_sign_in(
    chromium: Browser, postgres_server: PostgresServer
) -> None:
    with Fleet(postgres_server, size=1) as fleet, ExitStack() as stack:
        (instance,) = fleet.instances
        user = User(instance).register()
        pages = [listen(chromium, instance.url, user, transports) for transports in (["polling"], None)]
        for page in pages:
            stack.callback(page.context.close)
        check_events_of_other_processes(fleet, user, pages)
        assert pages[0].evaluate(SIGN_IN_AGAIN, {"email": user.email, "password": PASSWORD}) == 200
        # The second page has only the previous cookie.
        wait_until(lambda: pages[1].evaluate("ended") == "replaced", what="the event session_ended")
        # The first page has the new cookie: it learns of the end, or its poll fails and it reconnects by itself.
        wait_until(lambda: pages[0].evaluate("ended || readies > 1"), what="the end of the previous session")
        pages[0].evaluate("client.connect()")
        wait_until(lambda: pages[0].evaluate("client.connected && readies > 1"), what="the event ready")


RECORD_EVENTS = "window.deployed = []; client.on('deployed', (...data) => window.deployed.push(data)); true"


def check_events_of_other_processes(fleet: Fleet, user: User, pages: list[Page]) -> None:
    """Both pages of the user receive the events that this process emits, with the same arguments."""
    assert all(page.evaluate(RECORD_EVENTS) for page in pages)
    room = user_room(user.get("/api/auth/me").json()["user"]["id"])
    with closing(Publisher(config.load(fleet.environment))) as publisher:
        assert publisher.emit("deployed", {"version": [1, None]}, room=room) == 1
        assert publisher.emit("deployed", ("a", "b"), room=room) == 1
        assert publisher.emit("deployed", room="user:0") == 0
        assert publisher.emit("deployed") == 1
    for page in pages:
        wait_until(lambda: page.evaluate("deployed.length") == 3, what="the events")  # noqa: B023 - called at once
        assert page.evaluate("deployed") == [[{"version": [1, None]}], ["a", "b"], []]
