"""Earlier code with the current schema: a rolling deployment loses nothing, and a release can be rolled back."""

from __future__ import annotations

import io
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from harness.event_senders import Sender, await_all_stored, batch_of, running, stored
from harness.fleet import NO_RATE_LIMITS, start_together
from harness.scale import full_only
from harness.servers import ROOT, Instance, PostgresServer, RedisServer, Worker, flask, fleet_environment, release
from harness.sockets import NO_FAULTS, Balancer, Listener, delivery_faults
from harness.users import User
from tests.functional.test_jobs import Rows, Workshop

EARLIER = "5fc2ed8"
PREVIOUS = "HEAD^"
SIZE = 3
NOTIFICATIONS, PER_SECOND = 1500, 25
ANALYSES_PER_STEP = 4
SESSION_COOKIES = ("session", "reporadar_session")
PAGES = ("/", "/notifications", "/settings", "/privacy")

pytestmark = [pytest.mark.serial, full_only]


@pytest.fixture
def earlier_release(tmp_path: Path) -> Path:
    return code_of(EARLIER, tmp_path / "earlier")


def code_of(commit: str, folder: Path) -> Path:
    """Write the code of a commit to the folder and return it. Skips the test if the history is missing."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the history of this checkout lacks commit {commit}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def keep_both_session_cookies(user: User) -> None:
    """Send the session under both names: the releases differ in its name in development mode, which plain http needs."""

    def copy(response: httpx.Response) -> None:
        for name, other in (SESSION_COOKIES, SESSION_COOKIES[::-1]):
            if value := response.cookies.get(name):
                user.client.cookies.set(other, value, domain="127.0.0.1")

    user.client.event_hooks["response"].append(copy)


class Visitor(User):
    """A signed-in user who keeps reading and writing through the balancer."""

    requests = 0

    def __init__(self, balancer: Balancer) -> None:
        super().__init__(balancer)
        keep_both_session_cookies(self)
        self.failures: list[str] = []

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{name}={self.cookie}" for name in SESSION_COOKIES)

    def keep_visiting(self, over: threading.Event) -> None:
        while not over.is_set():
            for method, path, body in (("GET", "/api/auth/me", None), ("POST", "/api/notifications/read", {"up_to": 0})):
                try:
                    answer = self.request(method, path, json=body)
                except httpx.TransportError as error:
                    self.failures.append(f"{method} {path}: {error!r}")
                    continue
                self.requests += 1
                if not answer.is_success:
                    self.failures.append(f"{method} {path}: {answer.status_code} {answer.text}")


@contextmanager
def visiting(visitors: list[Visitor]) -> Iterator[None]:
    over = threading.Event()
    threads = [threading.Thread(target=visitor.keep_visiting, args=(over,)) for visitor in visitors]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_rolling_upgrade_loses_nothing(postgres_server: PostgresServer, earlier_release: Path, tmp_path: Path) -> None:
    (tmp_path / "workshop").mkdir()
    workshop = Workshop(tmp_path / "workshop")
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        settings = {"TRUSTED_PROXIES": "1", "SHUTDOWN_DELAY": "2", **workshop.environment, **NO_RATE_LIMITS}
        environment = fleet_environment(redis.url, postgres_server.create_empty_database(), **settings)
        rows = Rows(environment["DATABASE_URL"])
        release(environment, earlier_release)
        before = [Instance({**environment, "INSTANCE_ID": f"instance-{n}"}, earlier_release) for n in range(1, SIZE + 1)]
        old_workers = [Worker(environment, earlier_release) for _ in range(2)]
        start_together(stack, [*before, *old_workers])
        balancer = stack.enter_context(Balancer(before))

        visitors = [Visitor(balancer) for _ in range(4)]
        for visitor in visitors:
            visitor.register()
        listeners = [stack.enter_context(Listener(visitor, transports=["websocket"])) for visitor in visitors[:2]]
        for listener in listeners:
            listener.connect(balancer)
        senders = [
            Sender(dict.fromkeys(SESSION_COOKIES, visitor.cookie), [balancer], count=5, pause=0.05) for visitor in visitors
        ]
        analyst = Visitor(balancer).register()
        repositories: list[str] = []

        def analyse() -> None:
            for _ in range(ANALYSES_PER_STEP):
                repositories.append(workshop.repository(f"repository-{len(repositories)}"))
                answer = analyst.post("/api/repositories", url=repositories[-1])
                assert answer.status_code == 202, answer.text

        executor = stack.enter_context(ThreadPoolExecutor())
        options = ["hello", "--count", str(NOTIFICATIONS), "--rate", str(PER_SECOND)]

        def notify(visitor: Visitor, directory: Path) -> Future[str]:
            return executor.submit(flask, environment, "notify", visitor.email, *options, directory=directory, timeout=300)

        with visiting(visitors), running(senders):
            notifying = [notify(visitors[0], earlier_release)]
            analyse()
            release(environment)
            notifying.append(notify(visitors[1], ROOT))  # new code needs the new schema
            after: list[Instance] = []
            for old in before:
                assert old.terminate() == 0, old.log()
                new = Instance(old.environment)
                new.port = old.port
                after += start_together(stack, [new])
                analyse()
            for worker in old_workers:
                assert worker.terminate() == 0, worker.log()
                start_together(stack, [Worker(environment)])
                analyse()
            for process in notifying:
                process.result()

        rows.wait_for(*["succeeded"] * len(repositories), timeout=120)
        for listener in listeners:
            listener.wait_for("notification", NOTIFICATIONS, timeout=60)
        await_all_stored(redis)
        assert [failure for visitor in visitors for failure in visitor.failures] == []
        assert sum(visitor.requests for visitor in visitors) > 1000
        assert all(visitor.is_signed_in() for visitor in (*visitors, analyst))
        assert [delivery_faults(listener.seqs, NOTIFICATIONS) for listener in listeners] == [NO_FAULTS] * len(listeners)
        assert not any({"message": "unauthorized"} in listener.connect_errors for listener in listeners)
        assert rows.reports() == len(repositories)
        assert rows.query("SELECT count(*) FROM notifications WHERE type = 'analysis.succeeded'") == [len(repositories)]
        accepted, unknown = (set().union(*(getattr(sender, kind) for sender in senders)) for kind in ("accepted", "unknown"))
        found = set(stored(environment["DATABASE_URL"]))
        assert accepted - found == set()
        assert found - accepted - unknown == set()
        assert len(accepted) > 1000
        assert all("Traceback" not in process.log() for process in (*before, *after, *old_workers))


@pytest.mark.parametrize("commit", [PREVIOUS, EARLIER])
def test_earlier_code_serves_with_the_current_schema(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path: Path, commit: str
) -> None:
    earlier = code_of(commit, tmp_path / "earlier")
    redis_server.flush()
    environment = fleet_environment(redis_server.url, postgres_server.create_database(), **NO_RATE_LIMITS)
    if commit == PREVIOUS:
        assert "The schema" in release(environment, earlier)  # is up to date, or is newer than that code: both are no error
    with ExitStack() as stack:
        instance, worker = Instance(environment, earlier), Worker(environment, earlier)
        start_together(stack, [instance, worker])
        user = User(instance).register()
        assert {path: user.get(path).status_code for path in PAGES} == dict.fromkeys(PAGES, 200)
        batch = batch_of(5)
        assert user.post("/api/analytics/events", events=batch).status_code == 202
        flask(environment, "notify", user.email, "hello", directory=earlier)
        assert [item["type"] for item in user.get("/api/notifications").json()["items"]] == ["message"]
        await_all_stored(redis_server)
        assert stored(environment["DATABASE_URL"]).keys() == {event["id"] for event in batch}
        assert all("Traceback" not in process.log() for process in (instance, worker))
