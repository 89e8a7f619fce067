"""Takes the screenshots of the documentation from a real fleet: `.venv/bin/python -m scripts.screenshots REPOSITORY...`

Each REPOSITORY is the path of a local git repository; the report is that of the first. The fleet uses free ports.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from harness.servers import ROOT, Instance, PostgresServer, RedisServer, Worker, fleet_environment, promote

IMAGES = ROOT / "docs"
EMAIL, PASSWORD = "ada@example.org", "three calm herons"
WIDTH, HEIGHT = 1100, 720  # pixels
REPORT_HEIGHT = 1050
ANALYSIS_MS = 120_000


@contextmanager
def fleet(repositories: list[Path]) -> Iterator[list[Instance]]:
    roots = ":".join({str(path.parent) for path in repositories})
    with ExitStack() as started:
        redis, postgres = started.enter_context(RedisServer()), started.enter_context(PostgresServer())
        settings = fleet_environment(redis.url, postgres.create_database(), REPOSITORY_ROOTS=roots, PATH=os.environ["PATH"])
        started.enter_context(Worker(settings))
        yield [started.enter_context(Instance({**settings, "INSTANCE_ID": f"instance-{number}"})) for number in (1, 2, 3)]


def take(page: Page, name: str, height: int = HEIGHT) -> None:
    page.set_viewport_size({"width": WIDTH, "height": height})
    expect(page.locator("#live")).to_have_text("Live")
    page.screenshot(path=IMAGES / name)


def analyse(page: Page, path: Path, picture: str = "") -> None:
    page.goto("/")
    page.get_by_label("Repository address").fill(str(path))
    if picture:
        take(page, picture)
    page.get_by_role("button", name="Analyse").click()
    expect(page.get_by_role("heading", name="In numbers")).to_be_visible(timeout=ANALYSIS_MS)


def photograph(browser: Browser, instances: list[Instance], repositories: list[Path]) -> None:
    page = browser.new_context(base_url=instances[0].url).new_page()
    page.goto("/register")
    page.get_by_label("E-mail").fill(EMAIL)
    page.get_by_label("Password").first.fill(PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Create account").click()
    analyse(page, repositories[0], "getting-started-add.png")
    take(page, "screenshot.png", REPORT_HEIGHT)
    for path in repositories[1:]:
        analyse(page, path)
    page.goto("/")
    take(page, "getting-started-list.png")
    promote(instances[0].environment, EMAIL)
    instances[2].restart()
    page.goto("/admin/fleet")
    expect(page.get_by_text("3 of 3 instances are ready")).to_be_visible(timeout=30_000)
    take(page, "fleet.png", REPORT_HEIGHT)


def main() -> None:
    repositories = [Path(argument).resolve() for argument in sys.argv[1:]]
    with fleet(repositories) as instances, sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        photograph(browser, instances, repositories)


if __name__ == "__main__":
    main()
