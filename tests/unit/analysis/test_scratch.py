from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.analysis import scratch
from harness.servers import ROOT

HOLDER = """
import sys
from app.analysis import scratch
with scratch.temporary_folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def separate_tempdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@contextmanager
def holder() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start another process that has a temporary folder."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def folders() -> list[Path]:
    return [path for path in scratch.base_folder().iterdir() if path.is_dir()]


def test_folder_is_private_and_removed_at_the_end() -> None:
    with scratch.temporary_folder() as folder, scratch.temporary_folder() as other:
        (folder / "deep" / "er").mkdir(parents=True)
        assert {folder, other} == set(folders())
        assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert folders() == []


def test_folder_is_removed_after_an_exception() -> None:
    with pytest.raises(RuntimeError), scratch.temporary_folder():
        raise RuntimeError
    assert folders() == []


def test_only_folders_of_dead_processes_are_removed() -> None:
    with holder() as (process, abandoned), holder() as (_, held):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert set(folders()) == {abandoned, held}
        scratch.remove_abandoned()
        assert folders() == [held]
        with scratch.temporary_folder() as own:
            assert set(folders()) == {held, own}
            assert (held / "file").exists()


def test_creating_a_folder_removes_abandoned_ones() -> None:
    (scratch.base_folder() / "abandoned-before-its-lock").mkdir()
    with scratch.temporary_folder() as own:
        assert folders() == [own]


def test_concurrent_removals_return_after_the_removal() -> None:
    with scratch.temporary_folder() as folder:
        for number in range(2_000):
            (folder / str(number)).touch()
        seen: list[bool] = []

        def remove() -> None:
            scratch.remove(folder)
            seen.append(folder.exists())

        threads = [threading.Thread(target=remove) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [False, False]


def test_symbolic_link_is_removed_without_its_target(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    with scratch.temporary_folder() as folder:
        (folder / "link").symlink_to(tmp_path / "kept")
    (scratch.base_folder() / "link").symlink_to(tmp_path / "kept")
    scratch.remove_abandoned()
    assert (tmp_path / "kept" / "file").exists()


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_base_folder_accessible_to_others_is_refused(mode: int) -> None:
    scratch.base_folder().chmod(mode)
    with pytest.raises(PermissionError):
        scratch.base_folder()


def test_base_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    base = scratch.base_folder()
    base.rmdir()
    (tmp_path / "foreign").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "foreign")
    with pytest.raises((PermissionError, FileExistsError)):
        scratch.base_folder()
    base.unlink()
    if os.geteuid() == 0:
        base.mkdir(mode=0o700)
        os.chown(base, 12345, 12345)
        with pytest.raises(PermissionError):
            scratch.base_folder()
