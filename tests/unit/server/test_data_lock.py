from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core import config
from app.core.config import EX_CONFIG, Config
from app.server import data_lock
from app.server.data_lock import lock_data_folder


@pytest.fixture(autouse=True)
def unlocked() -> Iterator[None]:
    """A process locks once; each test stands for another process."""
    yield
    if data_lock._lock_file:
        data_lock._lock_file.close()
        data_lock._lock_file = None


@pytest.fixture
def embedded_config(tmp_path: Path) -> Config:
    return config.load({"DATABASE_URL": f"sqlite:///{tmp_path}/reporadar.db"})


def test_second_embedded_instance_on_the_same_data_is_refused(
    embedded_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as exited:
            lock_data_folder(embedded_config)
    assert exited.value.code == EX_CONFIG
    assert "another embedded instance" in capsys.readouterr().err


def test_embedded_instance_locks_its_data_folder(embedded_config: Config, tmp_path: Path) -> None:
    lock_data_folder(embedded_config)
    with (tmp_path / "lock").open("w") as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_instance_of_a_fleet_locks_no_folder(fleet_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    lock_data_folder(fleet_config)
    assert list(tmp_path.iterdir()) == []
