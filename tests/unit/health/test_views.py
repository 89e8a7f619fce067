from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.core.version import VERSION
from app.health.service import Probe
from app.server.lifecycle import Lifecycle
from tests.unit.conftest import MakeApp


def probe_all(app: Flask) -> None:
    for check in app.extensions["health_checks"]:
        if isinstance(check, Probe):
            check.probe()


def test_health_of_an_embedded_instance_checks_its_database(app: Flask, client: FlaskClient) -> None:
    probe_all(app)
    response = client.get("/health")
    assert response.status_code == 200
    assert response.content_type == "application/health+json"
    assert response.json is not None
    assert set(response.json) == {"status", "instance_id", "version", "checks", "load"}
    assert (response.json["status"], response.json["instance_id"], response.json["version"]) == ("pass", "instance-1", VERSION)
    assert set(response.json["checks"]) == {"database", "open_files"}
    assert set(response.json["checks"]["database"]) == {"status", "latency_ms"}
    assert set(response.json["load"]) == {"cpu_percent", "memory_percent", "loop_delay_ms", "p95_ms"}


def test_instance_is_ready_once_its_dependencies_have_answered(app: Flask, client: FlaskClient) -> None:
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert response.json is not None
    assert (response.json["status"], response.json["phase"]) == ("fail", "starting")
    probe_all(app)
    response = client.get("/health/ready")
    assert response.status_code == 200
    assert response.json is not None
    assert (response.json["status"], response.json["phase"], response.json["reasons"]) == ("pass", "ready", [])


def test_draining_instance_is_live_but_not_ready(app: Flask, client: FlaskClient) -> None:
    probe_all(app)
    lifecycle: Lifecycle = app.extensions["lifecycle"]
    lifecycle.drain()
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_failure_is_reported_without_its_cause(app: Flask, client: FlaskClient) -> None:
    def refuse() -> str:
        raise ConnectionRefusedError("192.0.2.7:5432")

    probe: Probe = app.extensions["health_checks"][0]
    probe.check = refuse
    probe_all(app)
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json is not None
    assert response.json["status"] == response.json["checks"]["database"]["status"] == "fail"
    assert response.json["checks"]["database"]["reason"] == "not_answered_yet"
    for path in ("/health", "/health/ready"):
        assert "192.0.2.7" not in client.get(path).text
        assert "Refused" not in client.get(path).text


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.9", "192.168.1.1", "::1", "fd00::1"])
def test_private_peer_gets_metrics(client: FlaskClient, peer: str) -> None:
    response = client.get("/metrics", environ_base={"REMOTE_ADDR": peer})
    assert response.status_code == 200
    assert "reporadar_ready" in response.text


@pytest.mark.parametrize("peer", ["8.8.8.8", "172.32.0.1", "2001:4860::8888", "0.0.0.0", "::", ""])  # noqa: S104
def test_public_peer_gets_no_metrics(client: FlaskClient, peer: str) -> None:
    assert client.get("/metrics", environ_base={"REMOTE_ADDR": peer}).status_code == 404


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via"])
@pytest.mark.parametrize("trusted_proxies", ["0", "1"])
def test_forwarded_request_gets_no_metrics(make_app: MakeApp, header: str, trusted_proxies: str) -> None:
    client = make_app(TRUSTED_PROXIES=trusted_proxies).test_client()
    assert client.get("/metrics", headers={header: "10.1.2.3"}).status_code == 404


@pytest.mark.parametrize("address", ["192.0.2.7:4711", "unknown"])
def test_forwarded_request_without_a_valid_address_gets_no_metrics(make_app: MakeApp, address: str) -> None:
    client = make_app(TRUSTED_PROXIES="1").test_client()
    assert client.get("/metrics", headers={"X-Forwarded-For": address}).status_code == 404
