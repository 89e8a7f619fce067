from __future__ import annotations

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.core import config
from app.operations.doctor import certificates
from app.operations.doctor.certificates import TlsServer
from app.redis.cluster import NodeAddress
from harness.git_server import issue_certificates
from harness.servers import fleet_environment

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DATABASE = "postgresql://db.example.org/radar"


@pytest.mark.parametrize(
    ("left", "status", "text"),
    [
        (timedelta(days=14), "ok", "expires on 2026-12-14, in 14 days"),
        (timedelta(days=14, seconds=-1), "warn", "expires on 2026-12-14, in 13 days"),
        (timedelta(seconds=1), "warn", "expires on 2026-11-30, in 0 days"),
        (timedelta(0), "fail", "expired on 2026-11-30"),
    ],
)
def test_certificate_is_judged_by_the_days_left(left: timedelta, status: str, text: str) -> None:
    finding = certificates._judge(TlsServer("redis r:6379", "r", 6379, "Renew it"), NOW + left, NOW)
    assert (finding.status, finding.text) == (status, f"certificate: redis r:6379: {text}")
    assert finding.name == "certificate"


@pytest.mark.parametrize(("verify", "status"), [("true", "fail"), ("false", "warn")])
def test_expired_certificate_that_nobody_verifies_is_no_failure(verify: str, status: str) -> None:
    settings = config.load(fleet_environment("rediss://r", f"{DATABASE}?sslmode=require", REDIS_TLS_VERIFY=verify))
    client: Any = SimpleNamespace()
    (redis,) = certificates._redis_servers(settings, client, None)
    finding = certificates._judge(redis, NOW, NOW)
    assert (finding.status, "refuse an expired one" in finding.advice) == (status, status == "fail")
    (database,) = certificates._database(settings)
    assert certificates._judge(database, NOW, NOW).status == "warn"


@pytest.mark.parametrize("host", ["a..example.org", "a" * 64 + ".example.org"])
def test_name_that_no_host_can_have_is_an_error_of_this_line(host: str) -> None:
    assert isinstance(certificates._read_expiry(TlsServer("site", host, 443, "")), Exception)


def test_lookup_of_a_name_that_takes_long_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait(60))
    monkeypatch.setattr(certificates, "TIMEOUT_SECONDS", 0.01)
    found = certificates._read_expiry(TlsServer("site", "radar.example.org", 443, ""))
    end.set()
    assert str(found) == "the DNS lookup timed out"


def test_invalid_certificate_is_an_error_of_this_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, file = issue_certificates(tmp_path, ("localhost",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    monkeypatch.setattr(ssl.SSLSocket, "getpeercert", lambda *_, **__: b"no certificate")
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)

        served = threads.submit(serve)
        found = certificates._read_expiry(TlsServer("site", "127.0.0.1", listener.getsockname()[1], ""))
        served.result()
    assert isinstance(found, ValueError)


@pytest.mark.parametrize(
    ("url", "names"),
    [
        (DATABASE, []),
        (f"{DATABASE}?sslmode=prefer", []),
        (f"{DATABASE}?sslmode=require", ["database db.example.org:5432"]),
        ("postgresql://db.example.org:6432/radar?sslmode=verify-full", ["database db.example.org:6432"]),
        ("postgresql:///radar?sslmode=require", []),
    ],
)
def test_certificate_of_the_database_is_read_if_tls_is_required(url: str, names: list[str]) -> None:
    settings = config.load(fleet_environment("redis://r", url))
    assert [server.name for server in certificates._database(settings)] == names


def test_each_site_is_read_once() -> None:
    urls = ["https://radar.example.org", "http://127.0.0.1:3001", "https://[::1]:8443"]
    found = list(certificates._sites(urls, "https://radar.example.org"))
    assert [(server.host, server.port) for server in found] == [("radar.example.org", 443), ("::1", 8443)]
    assert [server.is_examined_elsewhere for server in certificates._sites([], "https://radar.example.org")] == [False]


def test_masters_that_a_cluster_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "is_cluster", lambda _: True)
    topology = SimpleNamespace(masters=lambda: [NodeAddress("a", 7000), NodeAddress("c", 7000)])
    client: Any = SimpleNamespace(topology=topology)
    settings = config.load(fleet_environment("rediss+cluster://a:7000,b:7000", DATABASE))
    names = [server.name for server in certificates._redis_servers(settings, client, None)]
    assert names == ["redis a:7000", "redis b:7000", "redis c:7000"]
