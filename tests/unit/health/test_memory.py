"""Control groups as files, as the kernel shows them to processes in containers and outside of them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from app.health import memory

GIGABYTE = 2**30
MACHINE_PERCENT = 37.5


class Machine:
    total = 64 * GIGABYTE
    percent = MACHINE_PERCENT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", Machine)
    return tmp_path


def belong_to(root: Path, lines: str) -> None:
    (root / "own").write_text(lines)


def group(
    root: Path, path: str, *, limit: str, used: int = 0, inactive: int = 0, files: memory._Files = memory.VERSION_2
) -> None:
    folder = root / "cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.limit).write_text(f"{limit}\n")
    (folder / files.used).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{files.reclaimable} {inactive}\nfile 2\n")


def test_without_control_groups_it_is_the_machines(root: Path) -> None:
    assert memory.used_percent() == MACHINE_PERCENT


def test_without_a_limit_it_is_the_machines(root: Path) -> None:
    belong_to(root, "0::/user.slice\n")
    group(root, "user.slice", limit="max", used=GIGABYTE)
    assert memory.used_percent() == MACHINE_PERCENT


def test_in_a_container_it_is_the_containers(root: Path) -> None:
    belong_to(root, "0::/\n")
    group(root, "", limit=str(GIGABYTE), used=GIGABYTE // 2)
    assert memory.used_percent() == 50


def test_files_that_the_kernel_can_drop_do_not_count(root: Path) -> None:
    belong_to(root, "0::/\n")
    group(root, "", limit=str(GIGABYTE), used=GIGABYTE, inactive=GIGABYTE // 4)
    assert memory.used_percent() == 75


def test_the_fullest_limit_on_the_way_up_counts(root: Path) -> None:
    belong_to(root, "0::/pods/pod-1/app\n")
    group(root, "pods/pod-1/app", limit=str(2 * GIGABYTE), used=GIGABYTE // 2)
    group(root, "pods/pod-1", limit=str(GIGABYTE), used=GIGABYTE * 9 // 10)
    group(root, "pods", limit="max", used=60 * GIGABYTE)
    assert memory.used_percent() == pytest.approx(90)


def test_a_container_that_is_told_its_path_on_the_host_sees_its_own_files(root: Path) -> None:
    belong_to(root, "0::/system.slice/docker-4f6a.scope\n")
    group(root, "", limit=str(GIGABYTE), used=GIGABYTE // 4)
    assert memory.used_percent() == 25


def test_version_1(root: Path) -> None:
    belong_to(root, "4:cpu,cpuacct:/x\n3:memory:/docker/4f6a\n0::/\n")
    group(root, "memory", limit="9223372036854771712", files=memory.VERSION_1)
    assert memory.used_percent() == MACHINE_PERCENT
    group(root, "memory/docker/4f6a", limit=str(GIGABYTE), used=GIGABYTE, inactive=GIGABYTE // 2, files=memory.VERSION_1)
    assert memory.used_percent() == 50


@pytest.mark.parametrize("content", ["", "much", "0"])
def test_a_limit_that_makes_no_sense_is_none(root: Path, content: str) -> None:
    belong_to(root, "0::/\n")
    group(root, "", limit=content, used=GIGABYTE)
    assert memory.used_percent() == MACHINE_PERCENT


def test_here() -> None:
    assert 0 < memory.used_percent() <= 100
