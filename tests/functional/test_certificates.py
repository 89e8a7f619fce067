"""`flask doctor` warns before a certificate expires: of real servers with certificates of every age."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from app.operations.doctor import certificates
from app.operations.doctor.certificates import TlsServer
from harness.git_server import issue_certificates
from harness.processes import free_port
from harness.redis_cluster import SLOTS, ClusterNode
from harness.servers import PostgresServer, RedisServer, fleet_environment, wait_until
from tests.functional.test_doctor import Examination, Proxy, examine

NAMES = ("localhost", "127.0.0.1")


class TlsRedis(RedisServer):
    """Accepts only TLS at `tls_port`."""

    def __init__(self, certificate: Path) -> None:
        super().__init__()
        self._certificate = str(certificate)
        self.tls_port = free_port()

    def _command(self) -> list[str]:
        return [*super()._command(), *tls_options(self._certificate, self.tls_port)]


class TlsClusterNode(ClusterNode):
    """The only master of a cluster, with TLS at `tls_port`."""

    def __init__(self, certificate: Path) -> None:
        super().__init__()
        self._certificate = str(certificate)
        self.tls_port = ClusterNode().port

    def _command(self) -> list[str]:
        return [*super()._command(), *tls_options(self._certificate, self.tls_port), "--tls-cluster", "yes"]


def tls_options(certificate: str, port: int) -> list[str]:
    files = ["--tls-cert-file", certificate, "--tls-key-file", certificate, "--tls-ca-cert-file", certificate]
    return [*files, "--tls-port", str(port), "--tls-auth-clients", "no"]


@contextmanager
def tls_in_postgres(server: PostgresServer, certificate: Path) -> Iterator[None]:
    """Offer TLS with this certificate, which the file contains with its key."""
    own = server.folder / certificate.name
    shutil.copyfile(certificate, own)
    own.chmod(0o600)
    if server.user:
        shutil.chown(own, server.user, server.user)
    settings = {"ssl": "on", "ssl_cert_file": str(own), "ssl_key_file": str(own)}
    change(server, *(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()))
    try:
        yield
    finally:
        change(server, *(f"ALTER SYSTEM RESET {name}" for name in settings))


def change(server: PostgresServer, *statements: str) -> None:
    with closing(psycopg2.connect(server.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in [*statements, "SELECT pg_reload_conf()"]:
                cursor.execute(statement)


def serves(server: PostgresServer, expiry: datetime) -> bool:
    found = certificates._read_expiry(TlsServer("", "127.0.0.1", server.port, "", is_postgres=True))
    return isinstance(found, datetime) and abs(found - expiry) < timedelta(hours=1)


def lines(found: Examination) -> list[str]:
    return [line for line in found.output.splitlines() if " certificate: " in line]


@pytest.mark.parametrize(
    ("days", "status", "text"),
    [
        pytest.param(30.5, "ok", "expires on {date}, in 30 days", id="valid"),
        pytest.param(13.5, "warn", "expires on {date}, in 13 days", id="expires soon"),
        pytest.param(-0.5, "fail", "expired on {date}", id="expired"),
    ],
)
def test_each_server_has_a_line(
    postgres_server: PostgresServer, database_url: str, tmp_path: Path, days: float, status: str, text: str
) -> None:
    expiry = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    authority, certificate = issue_certificates(tmp_path, NAMES, days=days)
    changes = {"location = ": f"ssl_certificate {certificate}; ssl_certificate_key {certificate}; location = "}
    with (
        tls_in_postgres(postgres_server, certificate),
        TlsRedis(certificate) as redis,
        Proxy([], changes | {"upstream all {  }": "", "http://$instances": "http://127.0.0.1:1"}, tls=True) as proxy,
    ):
        wait_until(lambda: serves(postgres_server, expiry), what="PostgreSQL to serve the certificate")
        site = f"https://localhost:{proxy.port}"
        environment = fleet_environment(
            f"rediss://localhost:{redis.tls_port}",
            f"{database_url}?sslmode=verify-ca&sslrootcert={authority}",
            REDIS_CA_FILE=str(authority),
            PUBLIC_URL=site,
        )
        found = examine(environment)
    servers = [f"redis localhost:{redis.tls_port}", f"database 127.0.0.1:{postgres_server.port}", site]
    expected = text.format(date=f"{expiry:%Y-%m-%d}")
    assert lines(found) == [f"{status:<4} certificate: {server}: {expected}" for server in servers], found.output
    if status != "ok":
        assert found.advice(f"certificate: {site}").startswith("Renew it")
    assert ("redis answers" in found.output) == (days > 0)


def test_node_of_a_cluster_has_a_line(database_url: str, tmp_path: Path) -> None:
    authority, certificate = issue_certificates(tmp_path, NAMES, days=13.5)
    with TlsClusterNode(certificate) as node:
        node.call("CLUSTER ADDSLOTSRANGE", 0, SLOTS - 1)
        wait_until(lambda: node.is_in_sync, what="the cluster")
        url = f"rediss+cluster://localhost:{node.tls_port}"
        found = examine(fleet_environment(url, database_url, REDIS_CA_FILE=str(authority)))
    (line,) = lines(found)
    assert line.startswith(f"warn certificate: redis localhost:{node.tls_port}: expires on ")


def test_stores_without_tls_have_no_line(redis_url: str, database_url: str) -> None:
    assert lines(examine(fleet_environment(redis_url, database_url))) == []


def test_public_address_that_does_not_answer_is_found(redis_url: str, database_url: str) -> None:
    site = f"https://127.0.0.1:{free_port()}"
    found = examine(fleet_environment(redis_url, database_url, PUBLIC_URL=site))
    assert lines(found) == [f"warn certificate: {site} does not answer: Connection refused"]
