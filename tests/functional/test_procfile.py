"""The Procfile under a process manager, with the environment variables of a platform."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import psycopg2
import pytest
import redis
import yaml
from playwright.sync_api import Browser, Request, expect

from harness import web
from harness.processes import run
from harness.servers import PROGRAMS, ROOT, Server, base_environment, fleet_environment, free_port, procfile_command, wait_until
from harness.users import PASSWORD

HONCHO = [str(PROGRAMS / "honcho"), "--no-colour", "--env", os.devnull]
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
RECEIVED = {signal.SIGTERM: 143, signal.SIGINT: 130}  # honcho's own exit status


class Honcho(Server):
    """Honcho with web and worker. It forwards a signal to whole process groups, as Heroku does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        self.environment = base_environment() | dict(environment) | {"PORT": str(self.port)}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> set[str]:
        """Return the ready instances; each request has a new connection, which any worker may accept."""
        answers = [web.get(f"{self.url}/health/ready", timeout=5) for _ in range(20)]
        return {answer.headers["X-Instance-Id"] for answer in answers if answer.is_success}

    def _command(self) -> list[str]:
        return [*HONCHO, "start", "web", "worker"]

    def _environment(self) -> dict[str, str]:
        return self.environment

    def _working_directory(self) -> Path:
        return ROOT

    def _answers(self) -> bool:
        try:
            return len(self.ready()) == 2 and "Worker waiting for jobs" in self.log()
        except httpx.TransportError:
            return False


@pytest.fixture
def platform(redis_url: str, empty_database_url: str) -> Iterator[Honcho]:
    environment = fleet_environment(
        redis_url, empty_database_url.replace("postgresql://", "postgres://"), WEB_CONCURRENCY="2", DYNO="web.1"
    )
    run([*HONCHO, "start", "release"], environment=base_environment() | environment, directory=ROOT)
    with Honcho(environment) as honcho:
        yield honcho


def documented_redis_connections() -> tuple[int, int]:
    """Return the connections to Redis of an idle instance and of an idle worker."""
    found = re.search(r"^\| Redis \| `web`: (\d+)\. `worker`: (\d+) \|", DEPLOYMENT, re.MULTILINE)
    assert found
    return int(found[1]), int(found[2])


def await_documented_connections(redis_url: str) -> None:
    """Close idle connections, as Redis does with a timeout, until no process has more than the document says."""
    web_process, worker = documented_redis_connections()

    def have_few_connections() -> bool:
        connections = client.client_list()
        for one in connections:
            if int(one["idle"]) > 1 and not set(one["flags"]) & {"P", "b"}:  # not subscribed, and not in a blocking command
                client.client_kill_filter(_id=one["id"])
        counts = Counter(one["name"].rpartition("-")[2] for one in connections)
        return 0 < counts["w1"] <= web_process and 0 < counts["w2"] <= web_process and 0 < counts["worker"] <= worker

    with closing(redis.Redis.from_url(redis_url)) as client:
        wait_until(have_few_connections, timeout=60, what="few connections to Redis")


def test_documented_plans_have_enough_connections() -> None:
    web_process, worker = documented_redis_connections()
    rows = re.findall(r"^\| \S+ \((\d+)\) \| \S+ \((\d+)\)" + r" \| (\d+)" * 5 + r" \|$", DEPLOYMENT, re.MULTILINE)
    assert len(rows) == 4
    for postgres_limit, redis_limit, webs, workers, pool_size, to_postgres, to_redis in [map(int, row) for row in rows]:
        assert to_postgres == 2 * (webs + workers) * pool_size + 1 <= postgres_limit
        assert to_redis == 2 * (web_process * webs + worker * workers) <= redis_limit


def test_two_workers_are_two_instances_that_share_sessions(platform: Honcho, redis_url: str) -> None:
    instances = wait_until(lambda: found if len(found := platform.ready()) == 2 else None, what="both workers to answer")
    assert {name[-3:] for name in instances} == {"-w1", "-w2"}
    await_documented_connections(redis_url)
    cookie = registered(platform)
    answering: set[str] = set()

    def both_have_answered() -> bool:
        answer = web.get(f"{platform.url}/api/auth/me", cookies={"reporadar_session": cookie})
        assert answer.status_code == 200
        answering.add(answer.headers["X-Instance-Id"])
        return answering == instances

    wait_until(both_have_answered, what="both workers to know the session")


def test_browsers_use_only_websockets_with_two_workers(platform: Honcho, chromium: Browser) -> None:
    context = chromium.new_context(base_url=platform.url)
    context.add_cookies([{"name": "reporadar_session", "value": registered(platform), "url": platform.url}])
    page = context.new_page()
    polls: list[Request] = []
    sockets: list[str] = []
    page.on("request", lambda request: polls.append(request) if "/socket.io/" in request.url else None)
    page.on("websocket", lambda websocket: sockets.append(websocket.url))
    for _ in range(5):  # by chance on either worker
        page.goto("/settings")
        expect(page.get_by_role("contentinfo")).to_contain_text("Live")
    context.close()
    assert len(sockets) == 5
    assert polls == []
    assert web.get(f"{platform.url}/socket.io/?EIO=4&transport=polling").status_code == 400


def test_release_of_older_code_succeeds_and_serves(redis_url: str, empty_database_url: str) -> None:
    """After a rollback, the database has a migration that the code does not know."""
    environment = fleet_environment(redis_url, empty_database_url, WEB_CONCURRENCY="2", DYNO="web.1")
    release = partial(run, [*HONCHO, "start", "release"], environment=base_environment() | environment, directory=ROOT)
    assert "The schema is up to date." in release()
    with closing(psycopg2.connect(empty_database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE users ADD COLUMN nickname TEXT; UPDATE alembic_version SET version_num = '9999'")
    assert "The schema (revision 9999) is newer than this code" in release()
    with Honcho(environment) as honcho:
        assert registered(honcho)


def test_compose_and_make_run_upgrade_the_schema_as_the_procfile_does() -> None:
    _, *arguments = procfile_command("release")
    compose = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yaml").read_text())
    assert compose["services"]["release"]["command"] == ["flask", *arguments]
    assert f"\t@.venv/bin/flask {' '.join(arguments)}\n\t@exec " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("number", RECEIVED)
def test_signal_to_all_processes_is_a_graceful_stop(platform: Honcho, number: signal.Signals) -> None:
    platform.send(number)
    assert platform.wait() == RECEIVED[number]
    log = platform.log()
    for role in ("w1", "w2", "worker"):
        assert re.search(rf"\[INFO\] \[\S+-{role}\] stopped", log), log
    assert "SIGKILL" not in log


def test_embedded_mode_is_refused_on_an_ephemeral_disk() -> None:
    environment = base_environment() | {"DYNO": "web.1", "PORT": str(free_port()), "WEB_CONCURRENCY": "2"}
    with pytest.raises(AssertionError, match=r"ended with status 78(.|\n)*USE_REDIS_SESSIONS: must be true on Heroku"):
        run([*HONCHO, "start", "web"], environment=environment, directory=ROOT)


def registered(platform: Honcho) -> str:
    """Register a user and return the session cookie."""
    account = {"email": "ada@example.org", "password": PASSWORD}
    answer = web.post(f"{platform.url}/api/auth/register", json=account)
    assert answer.status_code == 201, answer.text
    return answer.cookies["reporadar_session"]
