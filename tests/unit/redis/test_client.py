from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import redis

from app.core import config
from app.core.config import Config
from app.core.errors import Unavailable
from app.redis.client import SOCKET_TIMEOUT_SECONDS, available, connect
from harness.servers import fleet_environment, free_port
from tests.unit.conftest import UNUSED_DATABASE_URL


def config_for(url: str, **overrides: str) -> Config:
    return config.load(fleet_environment(url, UNUSED_DATABASE_URL, **overrides))


def options(configured: Config) -> dict[str, object]:
    client = connect(configured, "instance-1")
    return dict(client.connection_pool.connection_kwargs)


def test_connections_bear_the_name_of_the_instance(redis_url: str) -> None:
    client = connect(config_for(redis_url), "instance-7")
    try:
        assert client.client_getname() in ("instance-7", b"instance-7")
    finally:
        client.close()


def test_new_connection_reads_no_file(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a request fails in an unexpected way when no file can be opened."""
    client = connect(config_for(redis_url), "instance-1")
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr("io.open", None)
    try:
        assert client.ping()
    finally:
        client.close()


def test_bytes_come_back_as_bytes(redis_client: redis.Redis) -> None:
    redis_client.set("key", b"\xff")
    assert redis_client.get("key") == b"\xff"


def test_a_redis_that_is_not_there_is_unavailable() -> None:
    client = connect(config_for(f"redis://127.0.0.1:{free_port()}"), "instance-1")
    with pytest.raises(Unavailable), available():
        client.ping()


def test_a_redis_that_refuses_is_unavailable(redis_client: redis.Redis) -> None:
    redis_client.set("text", "value")
    with pytest.raises(Unavailable), available():
        redis_client.lpush("text", "value")


def test_our_own_faults_are_not_taken_for_those_of_redis() -> None:
    with pytest.raises(ZeroDivisionError), available():
        _ = 1 / 0


def test_the_answer_tells_nothing_about_the_server(redis_client: redis.Redis) -> None:
    with pytest.raises(Unavailable) as raised, available():
        redis_client.eval("return redis.call('NOSUCHCOMMAND')", 0)
    assert "NOSUCHCOMMAND" not in raised.value.detail


def test_nobody_waits_long_for_redis() -> None:
    found = options(config_for("redis://127.0.0.1"))
    assert found["socket_timeout"] == found["socket_connect_timeout"] == SOCKET_TIMEOUT_SECONDS


def test_a_certificate_is_verified(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    found = options(config_for("rediss://127.0.0.1", REDIS_CA_FILE=str(authority)))
    assert (found["ssl_cert_reqs"], found["ssl_check_hostname"]) == (ssl.CERT_REQUIRED, True)
    assert found["ssl_ca_certs"] == str(authority)


def test_a_certificate_is_not_verified_where_that_is_switched_off_by_name() -> None:
    found = options(config_for("rediss://127.0.0.1", REDIS_TLS_VERIFY="false"))
    assert (found["ssl_cert_reqs"], found["ssl_check_hostname"]) == (ssl.CERT_NONE, False)
