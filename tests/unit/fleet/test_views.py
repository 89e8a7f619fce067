from __future__ import annotations

import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.auth import store
from app.fleet.views import InstanceView
from app.server.lifecycle import DRAINING, READY, Lifecycle

DRAIN = "/api/fleet/instances/instance-1/drain"


def sign_in(app: Flask, client: FlaskClient, *, is_admin: bool) -> None:
    body = {"email": "ada@example.org", "password": "correct horse battery"}
    assert client.post("/api/auth/register", json=body).status_code == 201
    if is_admin:
        app.extensions["database"].run(store.promote, body["email"])


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/fleet"), ("POST", DRAIN), ("DELETE", DRAIN)])
def test_fleet_is_only_for_administrators(app: Flask, client: FlaskClient, method: str, path: str) -> None:
    assert client.open(path, method=method).status_code == 401
    sign_in(app, client, is_admin=False)
    assert client.open(path, method=method).status_code == 403


def test_overview_has_the_documented_fields(app: Flask, client: FlaskClient) -> None:
    sign_in(app, client, is_admin=True)
    overview = client.get("/api/fleet").get_json()
    assert set(overview) == {"instances", "workers", "advice", "disagreements", "stops"}
    (instance,) = overview["instances"]
    assert set(instance) == set(InstanceView.model_fields)
    assert (instance["instance_id"], instance["redis_latency_ms"]) == ("instance-1", None)


def test_drain_takes_effect_and_is_audited(app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    lifecycle: Lifecycle = app.extensions["lifecycle"]
    lifecycle.phase = READY
    sign_in(app, client, is_admin=True)
    caplog.set_level(logging.INFO, "audit")
    for method, event, status in (("POST", "instance.drained", DRAINING), ("DELETE", "instance.called_back", READY)):
        caplog.clear()
        assert client.open(DRAIN, method=method).status_code == 202
        assert client.get("/api/fleet").get_json()["instances"][0]["status"] == status
        (line,) = [record.getMessage() for record in caplog.records if record.name == "audit"]
        assert line == f"{event} address=127.0.0.1 user=1 instance=instance-1"


def test_unknown_instance_is_404(app: Flask, client: FlaskClient) -> None:
    sign_in(app, client, is_admin=True)
    assert client.post("/api/fleet/instances/unknown/drain").status_code == 404
