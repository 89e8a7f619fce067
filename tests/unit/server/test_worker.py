from __future__ import annotations

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.core import config
from app.core.config import EX_CONFIG, Config
from app.server import data_lock
from app.server.data_lock import claim_data_folder
from app.server.worker_numbers import lowest_free_number


@dataclass
class Worker:
    number: int


@pytest.mark.parametrize(
    ("taken", "next_number"),
    [([], 1), ([1], 2), ([1, 2], 3), ([2], 1), ([1, 3], 2), ([3, 1, 4], 2), ([2, 3], 1)],
)
def test_a_new_worker_gets_the_lowest_number_that_no_live_one_has(taken: list[int], next_number: int) -> None:
    assert lowest_free_number([Worker(number) for number in taken]) == next_number


def test_a_worker_that_follows_a_dead_one_gets_its_number() -> None:
    workers: list[Worker] = []
    for _ in range(3):
        workers.append(Worker(lowest_free_number(workers)))
    assert [worker.number for worker in workers] == [1, 2, 3]
    del workers[1]
    assert lowest_free_number(workers) == 2


@pytest.fixture(autouse=True)
def claim() -> Iterator[None]:
    """A process claims once; the next test is another worker."""
    yield
    if data_lock._claim:
        data_lock._claim.close()
        data_lock._claim = None


@pytest.fixture
def embedded_config(tmp_path: Path) -> Config:
    return config.load({"DATABASE_URL": f"sqlite:///{tmp_path}/reporadar.db"})


def test_a_second_embedded_instance_on_the_same_data_is_refused(
    embedded_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as exited:
            claim_data_folder(embedded_config)
    assert exited.value.code == EX_CONFIG
    assert "another embedded instance" in capsys.readouterr().err


def test_an_embedded_instance_holds_its_data_folder(embedded_config: Config, tmp_path: Path) -> None:
    claim_data_folder(embedded_config)
    with (tmp_path / "lock").open("w") as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_fleet_claims_no_folder(fleet_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    claim_data_folder(fleet_config)
    assert list(tmp_path.iterdir()) == []
