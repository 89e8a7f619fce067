from __future__ import annotations

import resource
from pathlib import Path

import pytest

from app.core import config
from app.redis.client import CONNECTIONS_PER_PROCESS
from app.server import open_files
from harness.servers import embedded_environment, fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits of the process. The last one is in force."""
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    return limits


def test_sufficient_soft_limit_stays(limits: list[tuple[int, int]]) -> None:
    open_files.ensure_limit_or_exit("x", 1024)
    assert len(limits) == 1


def test_soft_limit_is_raised_to_the_hard_limit(limits: list[tuple[int, int]]) -> None:
    open_files.ensure_limit_or_exit("x", 4096)
    assert limits[1:] == [(4096, 4096)]


def test_too_small_hard_limit_ends_the_process(limits: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        open_files.ensure_limit_or_exit("MAX_SOCKETS=9000", 4097)
    assert ended.value.code == config.EX_CONFIG
    assert "MAX_SOCKETS=9000 needs 4097, but the hard limit of this process is 4096" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("redis://127.0.0.1", 1),
        ("redis+cluster://a:7000,b:7000,c:7000", 3),
        ("redis+sentinel://a:26379,b:26379/main", 2),
    ],
)
def test_needed_files_are_counted(url: str, servers: int) -> None:
    settings = config.load(fleet_environment(url, UNUSED_DATABASE_URL, MAX_SOCKETS="700", DATABASE_POOL_SIZE="7"))
    of_stores = servers * CONNECTIONS_PER_PROCESS + 7
    assert open_files.needed_by_worker(settings) == of_stores + open_files.OTHER_FILES
    assert open_files.needed_by_instance(settings) == 700 + 1000 + of_stores + open_files.OTHER_FILES


def test_embedded_instance_needs_no_redis(tmp_path: Path) -> None:
    assert open_files.needed_by_worker(config.load(embedded_environment(tmp_path))) == 5 + open_files.OTHER_FILES
