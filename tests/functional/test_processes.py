"""Start, refused start, log lines and stop of the processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.lateness import measured_lateness
from harness.processes import run
from harness.servers import (
    ROOT,
    Instance,
    RedisServer,
    Worker,
    base_environment,
    embedded_environment,
    fleet_environment,
    migrate,
    procfile_command,
    wait_until,
)
from harness.users import User
from tests.functional.conftest import StartFleet

EX_CONFIG = 78
KEEPALIVE_SECONDS = 5  # gunicorn.conf.py
HALF_A_REQUEST = b"""POST /api/auth/login HTTP/1.1\r
Host: localhost\r
Content-Type: application/json\r
Content-Length: 100\r
\r
{"email": """
LOG_LINE = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] \[(INFO|WARNING)\] \[instance-7(-w\d|-worker)?\] \S.*")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the embedded instance."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def shared_embedded(data: Path) -> Iterator[Instance]:
    environment = embedded_environment(data)
    migrate(environment)
    with Instance(environment) as instance:
        yield instance


@pytest.fixture
def embedded(shared_embedded: Instance) -> Instance:
    """A running embedded instance. Tests may stop it."""
    if shared_embedded.status() is not None:
        shared_embedded.start()
    return shared_embedded


def test_embedded_instance_keeps_sessions_across_a_restart(embedded: Instance) -> None:
    user = User(embedded).register()
    assert embedded.interrupt() == 0, embedded.log()
    embedded.start()
    assert user.is_signed_in()


def test_idle_connection_does_not_delay_a_stop(embedded: Instance) -> None:
    user = User(embedded)
    assert user.get("/health/live").headers["Connection"] == "keep-alive"
    with measured_lateness() as lateness:
        assert embedded.interrupt() == 0, embedded.log()
    *_, seconds = re.findall(r"stopped: clean in ([\d.]+) s", embedded.log())
    assert float(seconds) < KEEPALIVE_SECONDS - 1 + lateness.slack


def test_incomplete_request_does_not_turn_a_stop_into_a_kill(start_fleet: StartFleet, redis_server: RedisServer) -> None:
    (instance,) = start_fleet(1, SHUTDOWN_TIMEOUT="7", INSTANCE_ID="instance-1")
    with socket.create_connection(("127.0.0.1", instance.port)) as connection, redis_server.client() as client:
        connection.sendall(HALF_A_REQUEST)
        wait_until(lambda: User(instance).get("/health/live").status_code == 200)
        assert instance.terminate() == 1
        assert "stopped: forced in " in instance.log()
        assert re.search(r"requests 1 in \d\.\d\d s \(1 cut off\)", instance.log())
        assert "cut off: POST /api/auth/login" in instance.log()
        assert not client.exists("fleet:instance:instance-1")


def test_embedded_data_and_secrets_are_private(embedded: Instance, data: Path) -> None:
    for name in ("session_encryption_key", "session_secret"):
        assert (data / name).stat().st_mode & 0o777 == 0o600
    user = User(embedded).register()
    with closing(sqlite3.connect(data / "reporadar.db")) as database:
        dump = "\n".join(database.iterdump())
    assert user.cookie.split(".")[0] not in dump


def test_second_embedded_instance_on_the_same_data_is_refused(embedded: Instance) -> None:
    with closing(Instance(embedded.environment)) as second:
        second.start(wait_ready=False)
        assert second.wait() == EX_CONFIG
        assert "another embedded instance already uses the data" in second.log()
    assert User(embedded).get("/health/ready").status_code == 200


def test_startup_lists_all_configuration_errors_without_values(tmp_path: Path) -> None:
    faulty = {"USE_REDIS_SESSIONS": "true", "REDIS_URL": "http://hunter2", "SESSION_SECRET": "hunter2", "LOG_FORMAT": "hunter2"}
    with closing(Instance(faulty)) as instance:
        instance.start(wait_ready=False)
        assert instance.wait() == EX_CONFIG
        for name in ("REDIS_URL", "SESSION_SECRET", "SESSION_ENCRYPTION_KEY", "DATABASE_URL", "LOG_FORMAT"):
            assert f"  {name}: " in instance.log()
        assert "hunter2" not in instance.log()
        assert "Traceback" not in instance.log()


@pytest.mark.parametrize(("app_env", "folder"), [("development", "from-file"), ("production", "instance")])
def test_settings_file_is_read_only_in_development(tmp_path: Path, app_env: str, folder: str) -> None:
    """The rule applies to `flask` commands too, although Flask reads the file by itself."""
    shutil.copytree(ROOT / "app", tmp_path / "app")
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    (tmp_path / ".env").write_text(f"DATABASE_URL=sqlite:///{tmp_path}/from-file/reporadar.db\n")
    run(procfile_command("release"), environment=base_environment() | {"APP_ENV": app_env}, directory=tmp_path)
    assert [path.parent.name for path in tmp_path.glob("*/reporadar.db")] == [folder]


def test_two_workers_of_one_gunicorn_are_two_instances(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, WEB_CONCURRENCY="2", INSTANCE_ID="instance-7")
    names = ["instance-1-w1", "instance-1-w2"]
    wait_until(lambda: sorted(answering(instance)) == names, what="both workers to answer")
    before = instance.worker_pids()
    kill_one(instance)
    wait_until(lambda: len(set(instance.worker_pids()) - set(before)) == 1, what="a new worker")
    wait_until(lambda: sorted(answering(instance)) == names, what="the new worker to answer by the name of the dead one")


def answering(instance: Instance) -> set[str]:
    return {User(instance).get("/health/live").headers["X-Instance-Id"] for _ in range(20)}


def kill_one(instance: Instance) -> None:
    os.kill(instance.worker_pids()[0], signal.SIGKILL)


@pytest.mark.parametrize(("workers", "module"), [("1", "app.worker"), ("2", "app.jobs.worker")])
def test_every_log_line_has_the_format_and_the_instance_id(redis_url: str, database_url: str, workers: str, module: str) -> None:
    environment = fleet_environment(redis_url, database_url, INSTANCE_ID="instance-7", WEB_CONCURRENCY=workers)
    with Instance(environment) as instance, Worker(environment, module=module) as worker:
        user = User(instance).register()
        user.log_in("wrong password\n[2025-10-03T20:00:00.000Z] [INFO] [instance-7] forged")
        user.get("/a%0a[2025-10-03T20:00:00.000Z] [INFO] [instance-7] forged")
        assert f"Server listening on port {instance.port}" in instance.log()
        wait_until(lambda: "Worker waiting for jobs" in worker.log(), what="the worker to start")
        assert worker.terminate() == 0
        assert instance.terminate() == 0
        for line in [*instance.log().splitlines(), *worker.log().splitlines()]:
            assert LOG_LINE.fullmatch(line), line


def test_json_logs_carry_the_request_id(redis_url: str, database_url: str) -> None:
    environment = fleet_environment(redis_url, database_url, INSTANCE_ID="instance-7", LOG_FORMAT="json")
    with Instance(environment) as instance:
        assert User(instance).request("GET", "/nowhere", headers={"X-Request-Id": "my-request"}).status_code == 404
        lines = [json.loads(line) for line in instance.log().splitlines()]
    assert all({"time", "level", "instance_id", "request_id", "message"} <= line.keys() for line in lines)
    assert {line["instance_id"] for line in lines} == {"instance-7"}
    assert [line["message"].split()[:3] for line in lines if line["request_id"] == "my-request"] == [["GET", "/nowhere", "404"]]


def test_production_cookie_is_secure_and_bound_to_the_host(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, APP_ENV="production", SHUTDOWN_DELAY="0")
    answer = User(instance).post("/api/auth/register", email="a@example.org", password="correct horse battery")
    (cookie,) = [one for one in answer.headers.get_list("Set-Cookie") if one.startswith("__Host-session=")]
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=31536000")


def test_promotion_applies_to_the_next_request(embedded: Instance) -> None:
    user = User(embedded).register()
    flask = procfile_command("release")[0]
    command = [flask, "--app", "wsgi", "users", "promote", user.email]
    run(command, environment=base_environment() | embedded.environment, directory=ROOT)
    assert user.get("/api/auth/me").json()["user"]["is_admin"] is True
