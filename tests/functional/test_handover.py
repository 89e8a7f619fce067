"""Pages with the live-socket module in Chromium stay live while instances restart, and move when one is added."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from harness.fleet import Fleet
from harness.scale import count
from harness.servers import PostgresServer, flask, wait_until
from harness.sockets import NO_FAULTS, delivery_faults
from harness.users import User

INSTANCES = count(2, 4)
PER_BROWSER = count(20, 150)  # Chromium opens at most 255 WebSockets for one profile
PAGES = count(20, 300)
CONTROLS = 5
LIMIT = PER_BROWSER * 2 // 3  # less than the sockets of one user when only one instance is left
ADDED_TO = count(65, 900)  # sockets on the other instances before one is added
BALANCE_SECONDS = 60
SHED_NOTIFICATIONS = count(50, 300)
NOTIFICATIONS, PER_SECOND = count(200, 1500), 25

# Opens sockets and records for each of them when none was ready. A page without hand-over hides from the instance that it could.
OPEN = """
async ([number, handsOver]) => {
    const { io } = await import("/static/vendor/socket.io.esm.min.js");
    const { LiveSocket } = await import("/static/live-socket.js");
    window.pages = Array.from({ length: number }, () => {
        const page = { seqs: [], ready: 0, gap: 0, lostAt: null, states: [] };
        function observed(url, options) {
            const auth = (send) => options.auth((data) => send({ ...data, hands_over: handsOver }));
            const socket = io(url, { ...options, auth });
            let isReady = false;
            socket.on("ready", ({ instance_id }) => {
                page.instance = instance_id;
                if (isReady) return;
                isReady = true;
                if (page.ready++ === 0 && page.lostAt !== null) page.gap += performance.now() - page.lostAt;
            });
            socket.on("disconnect", () => {
                if (isReady && --page.ready === 0) page.lostAt = performance.now();
                isReady = false;
            });
            return socket;
        }
        const live = new LiveSocket(observed, { after: 0, transports: ["websocket"] });
        live.on("notification", ({ seq }) => page.seqs.push(seq));
        live.on("live", ({ handedOver }) => page.states.push(handedOver ? "handed over" : "live"));
        live.on("waiting", () => page.states.push("waiting"));
        return page;
    });
}
"""


# Records every change of the indicator of a page.
RECORD_INDICATOR = """
() => {
    window.states = [];
    const indicator = document.getElementById("live");
    new MutationObserver(() => states.push(indicator.textContent)).observe(indicator, { childList: true, attributes: true });
}
"""


class Socket(NamedTuple):
    """The sockets of a page and what its handlers received."""

    ready: int  # sockets that are ready now
    gap: float  # milliseconds without a ready socket
    instance: str
    states: list[str]
    seqs: list[int]


class Pages:
    """Pages of one user in one browser."""

    def __init__(self, chromium: Browser, url: str, user: User, number: int, *, hands_over: bool) -> None:
        self._context = chromium.new_context(base_url=url)
        self._context.add_cookies([{"name": "reporadar_session", "value": user.cookie, "url": url}])
        self._page: Page = self._context.new_page()
        self._page.goto("/health/live")
        self._page.evaluate(OPEN, [number, hands_over])
        self.wait_live()

    def close(self) -> None:
        self._context.close()

    def wait_live(self) -> None:
        wait_until(lambda: self._page.evaluate("pages.every(({ ready }) => ready)"), timeout=30, what="all pages to be live")

    def wait_for(self, seq: int) -> None:
        wait_until(lambda: all(seq in page.seqs for page in self.seen()), timeout=30, what=f"notification {seq}")

    def instances(self) -> list[str]:
        """Return the instance of each page."""
        found: list[str] = self._page.evaluate("pages.map(({ instance }) => instance)")
        return found

    def seen(self) -> list[Socket]:
        fields = ", ".join(Socket._fields)
        found: list[Any] = self._page.evaluate(f"pages.map(({{ {fields} }}) => [{fields}])")
        return [Socket(*values) for values in found]


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer) -> Iterator[Fleet]:
    with Fleet(postgres_server, size=INSTANCES, balanced=True, settings={"MAX_SOCKETS_PER_USER": str(LIMIT)}) as started:
        yield started


@contextmanager
def opened(
    chromium: Browser, fleet: Fleet, number: int, *, per_user: int = PER_BROWSER, hands_over: bool = True
) -> Iterator[dict[User, Pages]]:
    """Open this many pages, each user with at most `per_user` of them and a browser of its own."""
    with ExitStack() as stack:
        found = {}
        for first in range(0, number, per_user):
            user = User(fleet.balancer).register()
            pages = Pages(chromium, fleet.balancer.url, user, min(per_user, number - first), hands_over=hands_over)
            stack.callback(pages.close)
            found[user] = pages
        yield found


@contextmanager
def real_page(chromium: Browser, fleet: Fleet) -> Iterator[tuple[User, Page]]:
    """Open a page of the application that is live."""
    user, url = User(fleet.balancer).register(), fleet.balancer.url
    with chromium.new_context(base_url=url) as context:
        context.add_cookies([{"name": "reporadar_session", "value": user.cookie, "url": url}])
        page = context.new_page()
        page.goto("/settings")
        expect(page.locator("#live")).to_have_text("Live", timeout=30_000)
        page.evaluate(RECORD_INDICATOR)
        yield user, page


def assert_no_gaps(pages: list[Socket]) -> None:
    """Check that 99 % of the pages had a ready socket all the time, and that all have one now."""
    gaps = sorted(page.gap for page in pages)
    assert gaps[int((len(gaps) - 1) * 0.99)] == 0, gaps
    assert {page.ready for page in pages} == {1}


def test_pages_are_never_without_a_socket_while_instances_restart(chromium: Browser, fleet: Fleet) -> None:
    with (
        real_page(chromium, fleet) as (reader, page),
        opened(chromium, fleet, PAGES) as groups,
        opened(chromium, fleet, CONTROLS, hands_over=False) as control,
        ThreadPoolExecutor() as executor,
    ):
        options = ["hello", "--count", str(NOTIFICATIONS), "--rate", str(PER_SECOND)]
        senders = [executor.submit(flask, fleet.environment, "notify", user.email, *options, timeout=300) for user in groups]
        for instance in fleet.instances:
            instance.send(signal.SIGTERM)
            assert instance.wait() == 0, instance.log()
            instance.start()
            for pages in (*groups.values(), *control.values()):
                pages.wait_live()
        for sender in senders:
            sender.result()
        seen = [page for pages in groups.values() for page in pages.seen()]
        assert Counter(state for page in seen for state in page.states)["handed over"] >= PAGES
        assert_no_gaps(seen)
        for pages in groups.values():
            pages.wait_for(NOTIFICATIONS)
            assert {delivery_faults(page.seqs, NOTIFICATIONS) for page in pages.seen()} == {NO_FAULTS}
        flask(fleet.environment, "notify", reader.email, "hello")
        expect(page).to_have_title("(1) Settings – RepoRadar")
        assert page.evaluate("states") == []
        # The negative control: the same module and the same restarts.
        assert min(page.gap for pages in control.values() for page in pages.seen()) > 0


def test_added_instance_gets_its_share_of_the_sockets(chromium: Browser, fleet: Fleet) -> None:
    added = fleet.instances[-1]
    assert added.terminate() == 0
    others = ADDED_TO // 5  # reconnect, as the official client does
    with (
        opened(chromium, fleet, ADDED_TO - others, per_user=LIMIT) as groups,
        opened(chromium, fleet, others, per_user=LIMIT, hands_over=False) as reconnecting,
        ThreadPoolExecutor() as executor,
    ):
        users = [*groups, *reconnecting]
        options = ["hello", "--count", str(SHED_NOTIFICATIONS), "--rate", "10"]
        senders = [executor.submit(flask, fleet.environment, "notify", user.email, *options, timeout=300) for user in users[::4]]
        everything = [*groups.values(), *reconnecting.values()]

        def imbalance() -> float:
            counts = Counter(instance for pages in everything for instance in pages.instances())
            return max(counts.values()) * INSTANCES / ADDED_TO

        before = imbalance()
        added.start()
        wait_until(lambda: imbalance() <= 1.1, BALANCE_SECONDS, "the sockets to be balanced")
        assert before > 1.1
        for sender in senders:
            sender.result()
        for user in users[::4]:
            pages = (groups | reconnecting)[user]
            pages.wait_for(SHED_NOTIFICATIONS)
            assert {delivery_faults(page.seqs, SHED_NOTIFICATIONS) for page in pages.seen()} == {NO_FAULTS}
        assert_no_gaps([page for pages in groups.values() for page in pages.seen()])
        assert imbalance() <= 1.1
