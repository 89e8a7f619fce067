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
with scratch.folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@contextmanager
def holder() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def folders() -> list[Path]:
    return [path for path in scratch.base().iterdir() if path.is_dir()]


def test_a_folder_is_private_and_removed_in_the_end() -> None:
    with scratch.folder() as folder, scratch.folder() as other:
        (folder / "deep" / "er").mkdir(parents=True)
        assert {folder, other} == set(folders())
        assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert folders() == []


def test_it_is_removed_after_a_fault() -> None:
    with pytest.raises(RuntimeError), scratch.folder():
        raise RuntimeError
    assert folders() == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not() -> None:
    with holder() as (process, abandoned), holder() as (_, held):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert set(folders()) == {abandoned, held}
        scratch.remove_abandoned()
        assert folders() == [held]
        with scratch.folder() as own:
            assert set(folders()) == {held, own}
            assert (held / "file").exists()


def test_a_new_folder_comes_with_the_removal_of_old_ones() -> None:
    (scratch.base() / "of-one-that-was-killed-at-once").mkdir()
    with scratch.folder() as own:
        assert folders() == [own]


def test_two_that_remove_both_return_when_it_is_gone() -> None:
    with scratch.folder() as folder:
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


def test_a_link_in_a_folder_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    with scratch.folder() as folder:
        (folder / "link").symlink_to(tmp_path / "kept")
    (scratch.base() / "link").symlink_to(tmp_path / "kept")
    scratch.remove_abandoned()
    assert (tmp_path / "kept" / "file").exists()


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_a_base_that_is_open_to_others_is_not_used(mode: int) -> None:
    scratch.base().chmod(mode)
    with pytest.raises(PermissionError):
        scratch.base()


def test_a_base_that_somebody_else_has_put_there_is_not_used(tmp_path: Path) -> None:
    base = scratch.base()
    base.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "theirs")
    with pytest.raises((PermissionError, FileExistsError)):
        scratch.base()
    base.unlink()
    if os.geteuid() == 0:
        base.mkdir(mode=0o700)
        os.chown(base, 12345, 12345)
        with pytest.raises(PermissionError):
            scratch.base()
