"""Servers that the tests of one process share. A test that stops, freezes or kills a server starts one of its own instead."""

import gc
import os
import shutil
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from xdist.scheduler import LoadScopeScheduling

from harness.processes import PATIENCE_SECONDS
from harness.redis_cluster import RedisCluster
from harness.servers import ROOT, PostgresServer, RedisServer


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the garbage collector ignore what is imported and collected: it would search it during each test, which takes long."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the files without a serial test when only those are wanted: to import all files takes seconds."""
    wants_serial = config.option.markexpr == "serial" and collection_path.suffix == ".py"
    return True if wants_serial and "mark.serial" not in collection_path.read_text() else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "_ModuleScheduling":
    return _ModuleScheduling(config, log)


class _ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps the tests that share a module's servers in one process, so that the servers are started once.

    The `xdist_group` mark would do the same, but xdist 3.8 adds it to an attribute that pytest 9.2 no longer has.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return what a test runs in one process with: its file, or only itself if the file has no servers of its own."""
    path = nodeid.partition("::")[0]
    return path if _has_module_fixture(path) else nodeid


@cache
def _has_module_fixture(path: str) -> bool:
    text = (ROOT / path).read_text()
    return 'scope="module"' in text or "redis_cluster" in text


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    """A Redis Cluster that only this file uses. A test that kills or freezes a server leaves the cluster whole."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        # Pages of all contexts share one process: a fifth less processor time than a process for each.
        sharing = ["--disable-site-isolation-trials", "--renderer-process-limit=1"]
        # The headless shell has no windows, and so takes a fifth of the processor time for each new context.
        program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        yield playwright.chromium.launch(executable_path=program, args=sandbox + sharing)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the shared Redis, which is empty."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A new database with the current schema."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A new database without a schema."""
    url = postgres_server.create_empty_database()
    yield url
    postgres_server.drop_database(url)
