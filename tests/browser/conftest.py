"""Chromium, an embedded instance for it, and visitors: each has a browser of their own and must see no error in its console."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.servers import Instance, embedded_environment, migrate

PASSWORD = "three calm herons"
NO_LIMITS = {"RATE_LIMIT_LOGIN": "1000/15min", "RATE_LIMIT_REGISTER": "1000/h"}

StartInstance = Callable[..., Instance]
Visit = Callable[..., Page]

_numbers = itertools.count(1)


def new_email() -> str:
    return f"visitor-{next(_numbers)}@example.org"


def open_account(page: Page, email: str = "") -> str:
    """Registers by the API, which leaves the page's browser signed in; returns the e-mail address."""
    email = email or new_email()
    answer = page.request.post("/api/auth/register", data={"email": email, "password": PASSWORD})
    assert answer.status == 201
    return email


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield playwright.chromium.launch(executable_path="/usr/bin/chromium", args=sandbox)


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with _embedded(tmp_path_factory.mktemp("instance"), **NO_LIMITS) as started:
        yield started


@pytest.fixture
def start_instance(tmp_path: Path) -> Iterator[StartInstance]:
    """Starts an embedded instance with settings of its own."""
    with ExitStack() as started:
        yield lambda **settings: started.enter_context(_embedded(tmp_path, **settings))


@pytest.fixture
def visit(chromium: Browser, instance: Instance) -> Iterator[Visit]:
    """A page in a browser of its own, with the options of `Browser.new_context`."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_browser(base_url: str = instance.url, **options: Any) -> Page:
        contexts.append(chromium.new_context(base_url=base_url, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.extend(_complaint(message)))
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


def _complaint(message: ConsoleMessage) -> list[str]:
    """Chromium also notes each page that came with an error status, which is what some tests ask for."""
    expected = "the server responded with a status of" in message.text
    return [] if expected or message.type not in ("error", "warning") else [message.text]
