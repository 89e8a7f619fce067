"""Chromium and an embedded instance. Each visitor has a separate browser context, whose console must show no error."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from harness.processes import run
from harness.servers import PROGRAMS, Instance, embedded_environment, migrate

PASSWORD = "three calm herons"
NO_LIMITS = {"RATE_LIMIT_LOGIN": "1000/15min", "RATE_LIMIT_REGISTER": "1000/h"}
PERSON = {"NAME": "Ada", "EMAIL": "ada@example.org"}

StartInstance = Callable[..., Instance]
Visit = Callable[..., Page]
MakeRepository = Callable[..., Path]

_numbers = itertools.count(1)


def new_email() -> str:
    return f"visitor-{next(_numbers)}@example.org"


def open_account(page: Page, email: str = "") -> str:
    """Register by the API, which signs in the browser of the page; return the e-mail address."""
    email = email or new_email()
    answer = page.request.post("/api/auth/register", data={"email": email, "password": PASSWORD})
    assert answer.status == 201
    return email


def open_account_menu(page: Page) -> None:
    page.get_by_role("navigation", name="Main").get_by_text("Account", exact=True).click()


def expect_heading(page: Page, name: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def add(page: Page, path: Path) -> None:
    """Add a repository on the list and open its page."""
    page.goto("/")
    page.get_by_label("Repository address").fill(str(path))
    page.get_by_role("button", name="Analyse").click()
    expect_heading(page, path.name)


def analysed(page: Page, path: Path) -> None:
    """Add a repository and wait for its report on the page."""
    add(page, path)
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible()


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder whose local repositories may be analysed."""
    return tmp_path_factory.mktemp("repositories").resolve()


@pytest.fixture
def make_repository(root: Path) -> MakeRepository:
    """Create a work tree with commits on consecutive days."""

    def make(name: str = "", commits: int = 3, files: dict[str, str] | None = None) -> Path:
        path = root / (name or f"repository-{next(_numbers)}")
        path.mkdir()
        git(path, "init", "--quiet", "--initial-branch=main")
        for file, content in (files or {"README.md": "# A test\n", "app.py": "print(1)\n"}).items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(content)
        for number in range(commits):
            git(path, "add", ".")
            git(path, "commit", "--quiet", "--allow-empty", "--message", f"Commit {number}", day=number + 1)
        return path

    return make


def git(path: Path, *arguments: str, day: int = 1) -> None:
    moment = f"2026-10-{day:02d}T12:00:00Z"
    who = {f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in PERSON.items()}
    dates = {"GIT_AUTHOR_DATE": moment, "GIT_COMMITTER_DATE": moment}
    nobodys = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    run(["git", *arguments], environment={**nobodys, **who, **dates}, directory=path)


class HeldGit:
    """A git that waits while it is held, so that an analysis keeps running."""

    def __init__(self, folder: Path) -> None:
        self._hold = folder / "hold"
        program = folder / "git"
        program.write_text(f'#!/bin/sh\nwhile [ -e "{self._hold}" ]; do sleep 0.05; done\nexec "{shutil.which("git")}" "$@"\n')
        program.chmod(0o755)
        self.path = f"{folder}:{PROGRAMS}:{os.environ['PATH']}"

    def hold(self) -> None:
        self._hold.touch()

    def release(self) -> None:
        self._hold.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def _git(tmp_path_factory: pytest.TempPathFactory) -> HeldGit:
    return HeldGit(tmp_path_factory.mktemp("git"))


@pytest.fixture
def held_git(_git: HeldGit) -> Iterator[HeldGit]:
    """The git of the shared instance, held from the start of the test."""
    _git.hold()
    yield _git
    _git.release()


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory, root: Path, _git: HeldGit) -> Iterator[Instance]:
    settings = {"REPOSITORY_ROOTS": str(root), "PATH": _git.path}
    with _embedded(tmp_path_factory.mktemp("instance"), **NO_LIMITS, **settings) as started:
        yield started


@pytest.fixture
def start_instance(tmp_path: Path) -> Iterator[StartInstance]:
    """Start an embedded instance with its own settings."""
    with ExitStack() as started:
        yield lambda **settings: started.enter_context(_embedded(tmp_path, **settings))


@pytest.fixture
def expected_complaints() -> tuple[str, ...]:
    """Console messages that this test may cause, in addition to those of every test."""
    return ()


@pytest.fixture
def visit(chromium: Browser, instance: Instance, expected_complaints: tuple[str, ...]) -> Iterator[Visit]:
    """Open a page in a new browser context, with the options of `Browser.new_context`."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_browser(base_url: str = instance.url, **options: Any) -> Page:
        contexts.append(chromium.new_context(base_url=base_url, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.extend(_complaint(message, expected_complaints)))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield open_browser
    for context in contexts:
        context.close()
    assert complaints == []


def _embedded(folder: Path, **settings: str) -> Instance:
    environment = embedded_environment(folder, **settings)
    migrate(environment)
    return Instance(environment)


def _complaint(message: ConsoleMessage, also_expected: tuple[str, ...]) -> list[str]:
    """Ignore the messages for error statuses, and for connections that a test or a navigation has ended."""
    expected = (
        "the server responded with a status of",
        "net::ERR_CONNECTION_",
        "net::ERR_FAILED",  # a request that a test aborts
        "closed before the connection is established",
        "Connection closed before receiving a handshake response",
        "Error during WebSocket handshake: Unexpected response code: 50",  # a proxy's, in the place of a stopped instance
        "Error during WebSocket handshake: Unexpected response code: 400",  # the page was left before its upgrade
    )
    is_expected = any(words in message.text for words in (*expected, *also_expected))
    return [] if is_expected or message.type not in ("error", "warning") else [message.text]
