from __future__ import annotations

import time

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import REGISTRY

from app.health.load import Load


def test_without_requests_there_is_no_response_time() -> None:
    assert Load().describe() == {"cpu_percent": 0, "memory_percent": 0, "loop_delay_ms": 0, "p95_ms": None}


def test_sample_is_reported_and_set_as_metric() -> None:
    load = Load()
    load.sample(0)
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    load.sample(0.25)
    assert load.cpu_percent > 0
    assert 0 < load.memory_percent <= 100
    assert load.describe()["loop_delay_ms"] == 250
    assert REGISTRY.get_sample_value("reporadar_loop_delay_seconds") == 0.25
    assert REGISTRY.get_sample_value("reporadar_cpu_percent") == load.cpu_percent
    assert REGISTRY.get_sample_value("reporadar_memory_percent") == load.memory_percent


def test_only_responses_outside_health_and_sockets_are_measured(app: Flask, client: FlaskClient) -> None:
    load: Load = app.extensions["load"]
    for path in ("/health", "/health/ready", "/health/live", "/metrics", "/socket.io/?EIO=4&transport=polling"):
        client.get(path)
    assert load.p95_ms is None
    client.get("/nowhere")
    assert load.p95_ms is not None
    answer = client.get("/health").json
    assert answer is not None
    assert answer["load"]["p95_ms"] == pytest.approx(load.p95_ms, abs=0.1)
