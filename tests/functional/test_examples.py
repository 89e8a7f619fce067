"""The programs in docs/examples and docs/socketio.md work as they are: a restart of the instance costs them no notification."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route
from sqlalchemy import delete

from app.auth import store as accounts
from app.database import schema
from app.database.engine import Database
from app.notifications import store as notifications
from harness.processes import Process, run
from harness.scale import FULL
from harness.schema import open_database
from harness.servers import ROOT, Instance, base_environment, embedded_environment, migrate, wait_until
from harness.users import PASSWORD, User

EXAMPLES = ROOT / "docs/examples"
DOCUMENT = ROOT / "docs/socketio.md"
IMPORT_MAP = """
const map = document.createElement("script");
map.type = "importmap";
map.textContent = JSON.stringify({ imports: { "socket.io-client": "/static/vendor/socket.io.esm.min.js" } });
document.head.append(map);
"""
LISTEN = """
async ([email, password]) => {
    const { listen, signIn } = await import("/examples/notifications.mjs");
    const url = location.origin;
    window.lines = [];
    const show = ({ seq, type, title }) => lines.push(`${seq} ${type} ${title}`);
    const cookie = await signIn(url, email, password);
    listen({ url, cookie, after: 0, show, log: (line) => lines.push(line) }).then((reason) => lines.push(`ended: ${reason}`));
}
"""
LISTEN_AS_DOCUMENTED = """
async ([email, password]) => {
    const { printNotifications } = await import("/examples/documented.mjs");
    window.lines = [];
    await printNotifications(location.origin, email, password, (line) => lines.push(line));
}
"""

Lines = Callable[[], list[str]]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("instance")
    environment = embedded_environment(folder, REPOSITORY_ROOTS=str(folder))
    migrate(environment)
    with Instance(environment) as started:
        yield started


def start(stack: ExitStack, command: list[str], instance: Instance, user: User, folder: Path) -> Lines:
    """Start an example that has already shown notification 0. Return a function that returns its output."""
    (folder / "last-notification").write_text("0")
    account = {"REPORADAR_URL": instance.url, "REPORADAR_EMAIL": user.email, "REPORADAR_PASSWORD": PASSWORD}
    process = Process(command, environment=base_environment() | account, directory=folder, folder=folder)
    stack.callback(process.kill)
    return lambda: (folder / "log").read_text().splitlines()


def documented(language: str) -> str:
    """Return the first example in this language in the reference of the events."""
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def start_in_browser(stack: ExitStack, chromium: Browser, instance: Instance, user: User, listen: str) -> Lines:
    def serve(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        text = documented("js") if name == "documented.mjs" else (EXAMPLES / name).read_text()
        route.fulfill(body=text, content_type="text/javascript")

    context = chromium.new_context(base_url=instance.url, bypass_csp=True)  # the page gets a map for the name `socket.io-client`
    stack.callback(context.close)
    context.route("**/examples/*", serve)
    page = context.new_page()
    page.goto("/health/live")
    page.evaluate(IMPORT_MAP)
    page.evaluate(listen, [user.email, PASSWORD])
    return lambda: list(page.evaluate("lines"))


@contextmanager
def user_id_in_database(instance: Instance, user: User) -> Iterator[tuple[Database, int]]:
    with closing(open_database(instance.environment["DATABASE_URL"])) as database:
        found = database.run(accounts.by_email, user.email)
        assert found
        yield database, found.id


def notify(instance: Instance, user: User) -> None:
    with user_id_in_database(instance, user) as (database, user_id):
        for _ in range(3):
            database.run(notifications.add, [user_id], "message", "hello", {})


def user_without_first_notifications(instance: Instance) -> User:
    """Register a user with three notifications, of which the server has already deleted the first two."""
    user = User(instance).register()
    notify(instance, user)
    with user_id_in_database(instance, user) as (database, user_id):
        old = delete(schema.notifications).where(schema.notifications.c.user_id == user_id, schema.notifications.c.seq < 3)
        database.run(lambda connection: connection.execute(old))
    return user


def await_line(listeners: list[Lines], line: str) -> None:
    for lines in listeners:
        wait_until(lambda lines=lines: line in lines(), what=f"the line {line}")  # type: ignore[misc]


def await_shown(listeners: list[Lines], first: int, last: int) -> None:
    expected = [f"{seq} message hello" for seq in range(first, last + 1)]
    await_line(listeners, expected[-1])
    for lines in listeners:
        assert [line for line in lines() if line.endswith(" message hello")] == expected


def check_no_gap(instance: Instance, user: User, listeners: list[Lines], newcomers: list[Lines]) -> None:
    """Restart the instance, and create notifications before and meanwhile; then end the sessions of the examples.

    The newcomers show only notifications that are created from now on.
    """
    await_shown(listeners, 3, 3)  # although the socket does not bring it after a gap
    await_line(newcomers, "ready: 3")
    notify(instance, user)
    await_shown(listeners, 3, 6)
    await_shown(newcomers, 4, 6)
    instance.stop()
    notify(instance, user)
    instance.start()
    await_shown(listeners, 3, 9)
    await_shown(newcomers, 4, 9)
    assert all(any(line.startswith("draining") for line in lines()) for lines in (*listeners, *newcomers))
    assert user.request("DELETE", "/api/auth/sessions").status_code == 204
    for lines in (*listeners, *newcomers):
        wait_until(lambda lines=lines: "revoked" in lines()[-1], what="the end")  # type: ignore[misc]


def test_examples_for_sockets_show_each_notification_once(instance: Instance, chromium: Browser, tmp_path: Path) -> None:
    user = user_without_first_notifications(instance)
    folder = tmp_path / "documented"
    folder.mkdir()
    (folder / "documented.py").write_text(documented("python"))
    with ExitStack() as stack:
        listeners = [
            start(stack, [sys.executable, str(EXAMPLES / "notifications.py")], instance, user, tmp_path),
            start_in_browser(stack, chromium, instance, user, LISTEN),
        ]
        newcomers = [
            start(stack, [sys.executable, "documented.py"], instance, user, folder),
            start_in_browser(stack, chromium, instance, user, LISTEN_AS_DOCUMENTED),
        ]
        check_no_gap(instance, user, listeners, newcomers)


@pytest.mark.skipif(not FULL, reason="installs the client with npm")
@pytest.mark.skipif(not shutil.which("npm"), reason="needs Node")
def test_example_for_node_shows_each_notification_once(instance: Instance, tmp_path: Path) -> None:
    environment = base_environment()
    run(
        ["npm", "install", "--no-audit", "--no-fund", "socket.io-client"],
        environment=environment,
        directory=tmp_path,
        timeout=300,
    )
    for name in ("notifications.mjs", "print-notifications.mjs"):
        shutil.copy(EXAMPLES / name, tmp_path)
    user = user_without_first_notifications(instance)
    with ExitStack() as stack:
        check_no_gap(instance, user, [start(stack, ["node", "print-notifications.mjs"], instance, user, tmp_path)], [])


def analyse(instance: Instance, token: str, address: str, directory: Path) -> str:
    environment = base_environment() | {"REPORADAR_URL": instance.url, "REPORADAR_TOKEN": token}
    return run([sys.executable, str(EXAMPLES / "analyse.py"), address], environment=environment, directory=directory)


def test_example_for_tokens_prints_the_scores(instance: Instance, tmp_path: Path) -> None:
    repository = Path(instance.environment["REPOSITORY_ROOTS"]) / "empty.git"
    run(["git", "init", "--quiet", "--bare", str(repository)], environment=base_environment(), directory=tmp_path)
    token = User(instance).register().post("/api/auth/tokens", name="nightly build", scope="write").json()["token"]
    headline, *scores = analyse(instance, token, str(repository), tmp_path).splitlines()
    assert "no commits" in headline
    assert "overall" in scores[-1]
    with pytest.raises(AssertionError, match="The API token is invalid"):
        analyse(instance, "rr_unknown", str(repository), tmp_path)
