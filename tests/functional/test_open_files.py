"""The limit of open files: checked at the start, and survived when it is reached."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from app.core import config, descriptors
from app.server import open_files
from harness import raw_websocket, web
from harness.scale import full_only
from harness.servers import Instance, Worker, embedded_environment, fleet_environment, migrate, wait_until
from harness.users import User
from tests.functional.test_doctor import examine

LINE = "no file descriptors left: Too many open files"
HARD_LIMIT = 8_000
FREE_DESCRIPTORS = 5  # beside the reserve
SOCKETS = 30


class LimitedInstance(Instance):
    def __init__(self, environment: Mapping[str, str], limits: str, application: str = "wsgi:app") -> None:
        """`limits`: the soft and the hard limit of open files, as `soft:hard`."""
        super().__init__(environment, application=application)
        self._limits = limits

    def _command(self) -> list[str]:
        return ["prlimit", f"--nofile={self._limits}", *super()._command()]


class LimitedWorker(Worker):
    def _command(self) -> list[str]:
        return ["prlimit", "--nofile=200", *super()._command()]


def needed(environment: Mapping[str, str]) -> int:
    return open_files.needed_by_instance(config.load(environment))


def test_soft_limit_is_raised(instance: LimitedInstance) -> None:
    (worker,) = instance.worker_pids()
    assert psutil.Process(worker).rlimit(psutil.RLIMIT_NOFILE) == (HARD_LIMIT, HARD_LIMIT)


def test_too_small_hard_limit_is_an_error_that_names_both_numbers(tmp_path: Path) -> None:
    environment = embedded_environment(tmp_path) | {"MAX_SOCKETS": "2000"}
    instance = LimitedInstance(environment, "1024:1024")
    try:
        instance.start(wait_ready=False)
        assert instance.wait() == config.EX_CONFIG
        expected = (
            f"MAX_SOCKETS=2000 needs {needed(environment)}, but the hard limit of this process is 1024. Raise it: LimitNOFILE="
        )
        assert expected in instance.log()
    finally:
        instance.close()


@full_only
def test_worker_checks_its_limit(redis_url: str, database_url: str) -> None:
    worker = LimitedWorker(fleet_environment(redis_url, database_url))
    try:
        worker.start(wait_ready=False)
        assert worker.wait() == config.EX_CONFIG
        assert "a worker needs 234, but the hard limit of this process is 200" in worker.log()
    finally:
        worker.close()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LimitedInstance]:
    with limited_instance(tmp_path_factory.mktemp("data"), "wsgi:app") as instance:
        yield instance


@contextmanager
def limited_instance(folder: Path, application: str) -> Iterator[LimitedInstance]:
    environment = embedded_environment(folder) | {"MAX_SOCKETS_PER_USER": str(SOCKETS), "INSTANCE_ID": "instance-1"}
    migrate(environment)
    with LimitedInstance(environment, f"100:{HARD_LIMIT}", application) as instance:
        yield instance


@contextmanager
def full_file_table(instance: LimitedInstance, user: User) -> Iterator[None]:
    """Lower the limit of open files, then open WebSockets until no further one is accepted."""
    (worker,) = instance.worker_pids()
    highest = max(int(path.name) for path in Path(f"/proc/{worker}/fd").iterdir())
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (highest + 1 + FREE_DESCRIPTORS, HARD_LIMIT))
    try:
        with ExitStack() as stack:
            opened = 0
            while open_websocket(stack, instance, user) == httpx.codes.SWITCHING_PROTOCOLS:
                opened += 1
                assert opened < SOCKETS
            assert opened > 0
            yield
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))


def open_websocket(stack: ExitStack, instance: Instance, user: User) -> int:
    """Return the status of the response, or 0 if there is none in time."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", instance.port), timeout=10))
    connection.sendall(raw_websocket.upgrade(instance.port, user.cookie_header))
    try:
        return int(connection.recv(12)[9:])
    except TimeoutError:
        return 0


def lines(log: str, texts: Sequence[str]) -> list[str]:
    return [line for line in log.splitlines() if any(text in line for text in texts)]


def get(url: str) -> httpx.Response:
    """Send the request until it is answered: a client that sends it half a second late is closed as a silent one."""

    def attempt() -> httpx.Response | None:
        try:
            return web.get(url, timeout=30)
        except httpx.TransportError:
            return None

    return wait_until(attempt, 60, f"a response of {url}")


def test_full_file_table_is_one_line_and_health_answers(instance: LimitedInstance) -> None:
    user = User(instance).register()
    with full_file_table(instance, user):
        for _ in range(20):
            health = get(f"{instance.url}/health")
            assert health.status_code == 200
        assert health.json()["status"] == health.json()["checks"]["open_files"]["status"] == "warn"
        assert health.json()["checks"]["open_files"]["reason"] == descriptors.WARNING.reason
        assert "reporadar_file_descriptor_shortage 1.0" in get(f"{instance.url}/metrics").text
        page, api = (get(instance.url + path) for path in ("/login", "/api/auth/me"))
        assert (page.status_code, api.status_code) == (503, 503)
        assert api.json()["detail"] == "This instance has no file descriptors left. Please try again in a moment."
        assert {"retry-after", "x-instance-id"} <= set(page.headers)
        with ExitStack() as stack:  # more clients than the reserve has room for; health waits until silent ones are closed
            for _ in range(30):
                stack.enter_context(socket.create_connection(("127.0.0.1", instance.port)))
            assert get(f"{instance.url}/health/live").status_code == 200
        expected = [f"{instance.url}: instance-1 has no file descriptors left"]
        wait_until(lambda: examine(instance.environment, instance.url).lines("fail") == expected, 60, "the doctor to find it")
        assert len(lines(instance.log(), [LINE])) == 1
    wait_until(lambda: web.get(f"{instance.url}/login").status_code == 200, 30, "requests to be served again")
    assert user.is_signed_in()
    wait_until(lambda: web.get(f"{instance.url}/health").json()["checks"]["open_files"]["status"] == "pass", 30, "the end")
    assert len(lines(instance.log(), [LINE])) == 1
    assert lines(instance.log(), ["Traceback", "Too many open files"]) == lines(instance.log(), [LINE])


@full_only
def test_full_file_table_without_a_reserve_keeps_health_checks_out(tmp_path: Path) -> None:
    """The negative control of the test above."""
    with limited_instance(tmp_path, "tests.faults.no_reserve:app") as instance:
        user = User(instance).register()
        with full_file_table(instance, user), pytest.raises(httpx.TransportError):
            web.get(f"{instance.url}/health", timeout=1)
