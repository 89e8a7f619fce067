from __future__ import annotations

import logging

import pytest

from tests.unit.conftest import MakeApp


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:3000", "localhost.", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:3000", "[0:0:0:0:0:0:0:1]",
        "radar.test", "RADAR.test:8443", "[2001:DB8::1]:3000",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/login", "/socket.io/?EIO=4&transport=polling"])
def test_requests_for_trusted_hosts_are_served(make_app: MakeApp, host: str, path: str) -> None:
    names = "localhost, 127.0.0.1, [::1], Radar.Test, 2001:db8::1"
    client = make_app(TRUSTED_HOSTS=names).test_client()
    assert client.get(path, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "evil-localhost", "127.0.0.2", "[::2]", "::1:x", "", "localhost:80:80", "[::1",
        "user@localhost", "localhost/", "localhost,evil.example", "127.0.0.1.evil.example:3000", "[::1]evil.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/login", "/nowhere", "/healthy", "/socket.io/?EIO=4&transport=polling"])
def test_requests_for_other_hosts_are_refused(make_app: MakeApp, host: str, path: str) -> None:
    response = make_app().test_client().get(path, headers={"Host": host, "Origin": f"http://{host}"})
    assert response.status_code == 400
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_monitoring_is_served_for_every_host(make_app: MakeApp) -> None:
    client = make_app().test_client()
    for path in ("/health/live", "/metrics"):
        assert client.get(path, headers={"Host": "10.1.2.3:3000"}).status_code == 200


def test_production_serves_every_host_by_default(make_app: MakeApp) -> None:
    assert make_app(APP_ENV="production").test_client().get("/login", headers={"Host": "any.example"}).status_code == 200


def test_host_of_a_trusted_proxy_counts(make_app: MakeApp) -> None:
    client = make_app(TRUSTED_PROXIES="1").test_client()
    assert client.get("/login", headers={"X-Forwarded-Host": "evil.example"}).status_code == 400
    assert client.get("/login", headers={"Host": "inside", "X-Forwarded-Host": "localhost:8080"}).status_code == 200


def test_refusals_are_logged_once_per_second(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    client = make_app().test_client()
    with caplog.at_level(logging.INFO, "app.http.hosts"):
        for _ in range(5):
            client.get("/login", headers={"Host": "logged.example"})
    assert len([line for line in caplog.messages if "TRUSTED_HOSTS" in line]) <= 1
