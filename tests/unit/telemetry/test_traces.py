"""Decisions about traces; `tests/functional/test_traces.py` tests them with real processes."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from app.core import logs
from app.database.engine import Database, DatabaseUnavailable
from app.notifications.store import _select_pages
from app.telemetry.redis_commands import _names
from app.telemetry.sql import _without_values, trace_database
from app.telemetry.traces import Traces, is_recording
from harness.collector import Collector

TRACE, SPAN = "00000000000000000000000000000001", "00f067aa0ba902b7"  # an ID that each ratio would select


def create(monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str) -> Traces:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    return Traces("http://127.0.0.1:9", "instance-1")


@pytest.mark.parametrize("sampler", ["parentbased_traceidratio", "traceidratio"])
def test_a_client_cannot_decide_that_its_trace_is_sampled(monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    traces = create(monkeypatch, sampler, "0.000001")
    with traces.request("GET", f"00-{TRACE}-{SPAN}-01", {}):
        assert not is_recording()
        assert logs.trace_id.get() == TRACE
        assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", traces.traceparent() or "")


def test_a_client_cannot_prevent_that_its_trace_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    with create(monkeypatch, "parentbased_traceidratio", "1").request("GET", f"00-{TRACE}-{SPAN}-00", {}):
        assert is_recording()


def test_jobs_and_messages_follow_the_decision_about_their_request(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = create(monkeypatch, "parentbased_traceidratio", "0")
    with traces.span("job", f"00-{TRACE}-{SPAN}-01", {}):
        assert is_recording()
    with traces.span("job", None, {}):
        assert not is_recording()


@pytest.mark.parametrize("given", ["", "nonsense", f"00-{TRACE}-{SPAN}", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01,x"])
def test_an_invalid_traceparent_begins_a_new_trace(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    with create(monkeypatch, "parentbased_always_on", "").request("GET", given, {}):
        assert is_recording()
        assert logs.trace_id.get() not in (None, TRACE, "0" * 32)
    assert logs.trace_id.get() is None


def test_errors_are_recorded_without_their_message(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db", 1, "test")
    statement = text("SELECT * FROM missing WHERE name = :name")
    with Collector() as collector:
        traces = Traces(collector.url, "instance-1")
        trace_database(database, traces)
        traces.start()
        with pytest.raises(DatabaseUnavailable), traces.span("job", None, {}):
            database.run(lambda connection: connection.execute(statement, {"name": "geheim"}))
        traces.stop()  # sends what waits
        spans = {span.name: span for span in collector.spans()}
        assert spans["SELECT"].attributes["db.query.text"] == "SELECT * FROM missing WHERE name = ?"
        assert spans["SELECT"].parent_id == spans["transaction"].span_id
        assert spans["transaction"].parent_id == spans["job"].span_id
        assert [name for name, span in spans.items() if span.is_error] == ["SELECT", "transaction", "job"]
        assert {spans[name].attributes["error.type"] for name in ("transaction", "job")} == {"DatabaseUnavailable"}
        assert "geheim" not in collector.text()
    database.close()


def test_statements_that_contain_ids_are_recorded_without_them() -> None:
    statement = _without_values(str(_select_pages([(4711, 815), (4712, 0)], 10)))
    assert not re.search(r"471[12]|81\d|82\d", statement)
    assert "FROM (VALUES (?, ?, ?), (?, ?, ?)) AS asked LEFT JOIN inboxes ON inboxes.user_id = column1" in statement


def test_span_of_many_redis_commands_names_each_once() -> None:
    commands = [("HGETALL", "session:1"), ("HGETALL", "session:2"), ("del", "session:1")] * 500
    assert _names(commands) == "HGETALL DEL"


def test_a_stop_does_not_wait_for_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")  # s, for which the stop would wait otherwise
    with Collector() as collector:
        traces = Traces(collector.url, "instance-1")
        traces.start()
        with traces.span("job", None, {}):
            collector.freeze()
        began = time.monotonic()
        traces.stop()
        assert time.monotonic() - began < 15
