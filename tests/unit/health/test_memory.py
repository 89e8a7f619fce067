"""Memory limits from files like those that the kernel shows inside and outside of containers."""

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


def set_control_groups(root: Path, lines: str) -> None:
    (root / "own").write_text(lines)


def group(
    root: Path, path: str, *, limit: str, used: int = 0, inactive: int = 0, files: memory._Files = memory.VERSION_2
) -> None:
    folder = root / "cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.limit).write_text(f"{limit}\n")
    (folder / files.used).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{files.reclaimable} {inactive}\nfile 2\n")


def test_without_control_groups_the_machine_counts(root: Path) -> None:
    assert memory.used_percent() == MACHINE_PERCENT


def test_without_a_limit_the_machine_counts(root: Path) -> None:
    set_control_groups(root, "0::/user.slice\n")
    group(root, "user.slice", limit="max", used=GIGABYTE)
    assert memory.used_percent() == MACHINE_PERCENT


def test_limit_of_a_container_counts(root: Path) -> None:
    set_control_groups(root, "0::/\n")
    group(root, "", limit=str(GIGABYTE), used=GIGABYTE // 2)
    assert memory.used_percent() == 50


def test_reclaimable_file_cache_does_not_count(root: Path) -> None:
    set_control_groups(root, "0::/\n")
    group(root, "", limit=str(GIGABYTE), used=GIGABYTE, inactive=GIGABYTE // 4)
    assert memory.used_percent() == 75


def test_fullest_limit_of_all_parents_counts(root: Path) -> None:
    set_control_groups(root, "0::/pods/pod-1/app\n")
    group(root, "pods/pod-1/app", limit=str(2 * GIGABYTE), used=GIGABYTE // 2)
    group(root, "pods/pod-1", limit=str(GIGABYTE), used=GIGABYTE * 9 // 10)
    group(root, "pods", limit="max", used=60 * GIGABYTE)
    assert memory.used_percent() == pytest.approx(90)


def test_host_path_falls_back_to_the_files_of_the_container(root: Path) -> None:
    set_control_groups(root, "0::/system.slice/docker-4f6a.scope\n")
    group(root, "", limit=str(GIGABYTE), used=GIGABYTE // 4)
    assert memory.used_percent() == 25


def test_control_groups_version_1(root: Path) -> None:
    set_control_groups(root, "4:cpu,cpuacct:/x\n3:memory:/docker/4f6a\n0::/\n")
    group(root, "memory", limit="9223372036854771712", files=memory.VERSION_1)
    assert memory.used_percent() == MACHINE_PERCENT
    group(root, "memory/docker/4f6a", limit=str(GIGABYTE), used=GIGABYTE, inactive=GIGABYTE // 2, files=memory.VERSION_1)
    assert memory.used_percent() == 50


@pytest.mark.parametrize("content", ["", "much", "0"])
def test_invalid_limit_is_ignored(root: Path, content: str) -> None:
    set_control_groups(root, "0::/\n")
    group(root, "", limit=content, used=GIGABYTE)
    assert memory.used_percent() == MACHINE_PERCENT


def test_use_on_this_machine_is_a_percentage() -> None:
    assert 0 < memory.used_percent() <= 100
