"""Decisions about traces; `tests/functional/test_traces.py` tests them with real processes."""

from __future__ import annotations

import re
import time

import pytest

from app.core import logs
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


def test_errors_are_recorded_without_their_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        traces = Traces(collector.url, "instance-1")
        traces.start()
        with pytest.raises(ValueError, match="geheim"), traces.span("job", None, {}):
            raise ValueError("geheim")
        traces.stop()  # sends what waits
        (span,) = collector.spans()
        assert (span.name, span.is_error, span.attributes) == ("job", True, {"error.type": "ValueError"})
        assert "geheim" not in collector.text()


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
