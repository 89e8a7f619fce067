"""Traces with a real collector: one leads from a click to its notification, and a collector that fails disturbs nothing."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.telemetry.traces import FLUSH_SECONDS
from harness.collector import Collector, ReceivedSpan
from harness.fleet import Fleet
from harness.processes import run
from harness.repositories import Commit, ago, build
from harness.servers import ROOT, PostgresServer, base_environment, embedded_environment, wait_until
from harness.sockets import Listener
from harness.users import User

OUTAGE = "traces are dropped: the collector"
RECOVERY = "accepts traces again"

# Builds an instance and a worker's parts, and prints which modules of OpenTelemetry this process has then.
MODULES = """
import sys, wsgi, app.worker
print([name for name, module in sys.modules.items() if module and name.startswith(("opentelemetry", "app.telemetry"))])
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("roots") / "repository", [Commit(ago(1), files={b"README.md": b"# Hello"})])


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer, collector: Collector, repository: Path) -> Iterator[Fleet]:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SERVICE_NAME": "radar",
        "OTEL_BSP_SCHEDULE_DELAY": "100",  # ms
        "OTEL_EXPORTER_OTLP_TIMEOUT": "4",  # s
        "REPOSITORY_ROOTS": str(repository.parent),
        "LOG_FORMAT": "json",
    }
    with Fleet(postgres_server, workers=1, settings=settings, worker_settings={"INSTANCE_ID": "worker"}) as fleet:
        yield fleet


def logged(log: str, beginning: str) -> list[dict[str, str]]:
    """Return the records whose message begins with a text."""
    records = [json.loads(line) for line in log.splitlines()]
    return [record for record in records if record["message"].startswith(beginning)]


def named(spans: list[ReceivedSpan], process: str, name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.process.startswith(process) and span.name == name]


def test_one_trace_leads_from_a_click_to_its_notification_on_another_instance(
    fleet: Fleet, collector: Collector, repository: Path
) -> None:
    (clicked, listening), (worker,) = fleet.instances, fleet.workers
    trace_id, client_span = secrets.token_hex(16), secrets.token_hex(8)
    user = User(clicked).register()
    with Listener(user).connect(listening) as listener:
        headers = {"traceparent": f"00-{trace_id}-{client_span}-00"}  # 00: the client's own decision not to sample
        answer = user.request("POST", "/api/repositories?secret=geheim", json={"url": str(repository)}, headers=headers)
        assert answer.status_code == 202, answer.text
        listener.wait_for("notification", timeout=60)

    def spans() -> list[ReceivedSpan]:
        return [span for span in collector.spans() if span.trace_id == trace_id]

    # The span of the job ends last, but its process may send it before another process sends an earlier one.
    wait_until(lambda: named(spans(), "worker", "analysis job"), 60, "the span of the job")
    wait_until(lambda: named(spans(), "instance-2", "notification message"), 60, "the span of the notification")
    (request,) = named(spans(), "instance-1", "POST /api/repositories")
    (job,) = named(spans(), "worker", "analysis job")
    (notification,) = named(spans(), "instance-2", "notification message")
    assert request.parent_id == client_span
    assert job.parent_id == request.span_id
    assert notification.parent_id == job.span_id
    assert request.attributes["http.response.status_code"] == "202"
    assert request.attributes["request_id"] == answer.headers["X-Request-Id"]
    by_id = {span.span_id: span for span in spans()}
    of_request = [span for span in spans() if span.parent_id in by_id and span.process == "instance-1"]
    assert {"transaction", "INSERT", "EVALSHA"} <= {span.name for span in of_request}
    assert all(by_id[span.parent_id].name == "transaction" for span in of_request if span.name == "INSERT")
    assert {"transaction", "UPDATE", "PUBLISH"} <= {span.name for span in spans() if span.process == job.process}

    for log, beginning in ((clicked.log(), "POST /api/repositories 202"), (worker.log(), "analysis 1 started")):
        assert [record["trace_id"] for record in logged(log, beginning)] == [trace_id]

    assert {span.service for span in collector.spans()} == {"radar"}
    for secret in ("geheim", user.email, user.cookie, str(repository)):
        assert secret not in collector.text()


def test_routes_are_named_and_monitoring_is_not_traced(fleet: Fleet, collector: Collector) -> None:
    user = User(fleet.instances[0]).register()
    before = len(collector.spans())
    assert user.get("/health/live").status_code == 200
    assert user.get("/metrics").status_code == 200
    assert user.get("/feeds/geheim-geheim.atom?after=geheim").status_code == 404
    assert user.get("/geheim").status_code == 404
    assert user.get("/api/notifications").status_code == 200
    wait_until(lambda: named(collector.spans()[before:], "instance-1", "GET /api/notifications"), 60, "the last span")
    names = [span.name for span in collector.spans()[before:] if "http.request.method" in span.attributes]
    assert [name for name in names if name != "POST /api/auth/register"] == [
        "GET /feeds/<token>.atom",
        "GET",
        "GET /api/notifications",
    ]
    assert "geheim" not in collector.text()


def test_a_collector_that_fails_disturbs_no_request_and_no_stop(fleet: Fleet, collector: Collector) -> None:
    instance = fleet.instances[0]
    user = User(instance).register()

    def request_until(text: str, count: int) -> float:
        """Send requests until the log contains the text `count` times. Return for how many seconds they were answered before."""
        answered_at = [time.monotonic()]

        def is_logged() -> bool:
            assert user.is_signed_in()
            if instance.log().count(text) == count:
                return True
            answered_at.append(time.monotonic())
            return False

        wait_until(is_logged, 60, f"{text!r} in the log")
        return answered_at[-1] - answered_at[0]

    collector.freeze()
    # The export of the first spans begins after 0.1 s and takes 4 s. Without cooperation, no request would be answered meanwhile.
    assert request_until(OUTAGE, 1) > 1
    collector.resume()
    request_until(RECOVERY, 1)
    collector.kill()
    request_until(OUTAGE, 2)
    collector.start()
    request_until(RECOVERY, 2)
    collector.refuse()
    request_until(OUTAGE, 3)
    collector.accept()
    request_until(RECOVERY, 3)
    assert (instance.log().count(OUTAGE), instance.log().count(RECOVERY)) == (3, 3)
    assert not [record for record in logged(instance.log(), "") if record["logger"].startswith("opentelemetry")]

    collector.freeze()
    assert user.is_signed_in()
    assert instance.terminate() == 0
    collector.resume()


def test_the_stop_report_of_a_worker_does_not_wait_for_the_collector(
    fleet: Fleet, collector: Collector, repository: Path
) -> None:
    (worker,) = fleet.workers
    user = User(fleet.instances[1]).register()
    saved = re.compile("outcome of analysis [0-9]+ saved")
    before = len(saved.findall(worker.log()))
    another = build(repository.parent / "another", [Commit(ago(1), files={b"README.md": b"# Hello"})])
    collector.freeze()
    assert user.request("POST", "/api/repositories", json={"url": str(another)}).status_code == 202
    wait_until(lambda: len(saved.findall(worker.log())) > before, 60, "the end of the analysis")
    assert worker.terminate() == 0
    collector.resume()
    (record,) = logged(worker.log(), "stopped: ")
    found = re.search(r"close in ([0-9.]+) s", record["message"])
    assert found
    assert float(found[1]) < FLUSH_SECONDS


def test_without_the_setting_nothing_of_opentelemetry_is_imported(tmp_path: Path) -> None:
    environment = base_environment() | embedded_environment(tmp_path)
    output = run([sys.executable, "-c", MODULES], environment=environment, directory=ROOT)
    assert output.splitlines()[-1] == "[]"
