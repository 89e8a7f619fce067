"""The analysis process, started as in production."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shutil import which
from typing import Any

import psutil
import pytest

from app.analysis import __main__ as module
from app.analysis import clone, report
from app.analysis.__main__ import Output, run
from app.analysis.git import GitError
from harness import git_server
from harness.git_server import GitServer, create_repository
from harness.processes import wait_until
from harness.servers import ROOT, base_environment

MEGABYTE = 1024**2
NO_SPACE = "git can't read this repository: fatal: No space left on device"


def request_for(url: str | Path, **changes: Any) -> dict[str, Any]:
    request: dict[str, Any] = {
        "url": str(url),
        "as_of": "2026-01-01T00:00:00+00:00",
        "roots": [],
        "allowed_networks": ["127.0.0.0/8"],
        "max_bytes": 64 * MEGABYTE,
    }
    return request | changes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "served").mkdir()
    with GitServer(tmp_path / "served", tmp_path) as server:
        yield server


class Child:
    """An analysis process with its own folder for temporary files."""

    def __init__(self, tmp_path: Path, authority: Path | None = None, **changes: str) -> None:
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir(exist_ok=True)
        variables = base_environment() | {"TMPDIR": str(self.temporary)} | changes
        if authority:
            variables["SSL_CERT_FILE"] = str(authority)
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "app.analysis"],
            cwd=ROOT,
            env=variables,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )

    def send(self, request: dict[str, Any]) -> None:
        assert self.popen.stdin
        self.popen.stdin.write(json.dumps(request).encode() + b"\n")
        self.popen.stdin.flush()

    def lines(self) -> list[dict[str, Any]]:
        """Return the output of the whole run."""
        assert self.popen.stdout
        return [json.loads(line) for line in self.popen.stdout]

    def git_processes(self) -> list[psutil.Process]:
        return [it for it in psutil.Process(self.popen.pid).children(recursive=True) if it.name().startswith("git")]

    def remaining_folders(self) -> list[Path]:
        return [path for path in self.temporary.glob("*/*") if path.is_dir()]

    def close(self) -> None:
        with self.popen:
            self.popen.kill()


@pytest.fixture
def start(tmp_path: Path, server: GitServer) -> Iterator[Callable[[], Child]]:
    children: list[Child] = []

    def start() -> Child:
        children.append(Child(tmp_path, server.authority))
        return children[-1]

    yield start
    for child in children:
        child.close()


def test_process_of_an_analysis_does_not_load_the_web_application() -> None:
    program = "import sys, app.analysis.__main__; print({'flask', 'gevent', 'redis', 'sqlalchemy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True) == "set()\n"


def test_progress_is_followed_by_the_report(start: Callable[[], Child], server: GitServer) -> None:
    create_repository(server.folder / "it.git", commits=3)
    child = start()
    child.send(request_for(server.url("it", host="127.0.0.1")))
    lines = child.lines()
    assert child.popen.wait(10) == 0
    assert [sorted(line) for line in lines] == [["progress", "step"]] * (len(lines) - 1) + [["report"]]
    assert lines[-1]["report"]["commits"] == 3
    percents = [line["progress"] for line in lines[:-1]]
    assert (percents[0], percents == sorted(percents), percents[-1] <= 99) == (0, True, True)
    assert any(0 < percent <= 60 for percent in percents)
    assert child.remaining_folders() == []


def test_progress_appears_before_git_runs(tmp_path: Path) -> None:
    create_repository(tmp_path / "it", commits=1)
    gate, git = tmp_path / "open", tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f'#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.05; done\nexec {which("git")} "$@"\n')
    git.chmod(0o755)
    with closing(Child(tmp_path, PATH=f"{git.parent}:{os.environ['PATH']}")) as child:
        child.send(request_for(tmp_path / "it", roots=[str(tmp_path)]))
        assert child.popen.stdout
        assert select.select([child.popen.stdout], [], [], 10)[0]
        assert json.loads(child.popen.stdout.readline()) == {"progress": 0, "step": "Opening"}
        gate.touch()
        assert child.lines()[-1]["report"]["commits"] == 1


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing", "There is no public repository at this address."),
        ("redirect/6/it", "This address has too many redirects."),
    ],
)
def test_error_is_the_last_line(path: str, error: str, start: Callable[[], Child], server: GitServer) -> None:
    child = start()
    child.send(request_for(server.url(path, host="127.0.0.1")))
    assert child.lines()[-1] == {"error": error, "permanent": True}
    assert (child.popen.wait(10), child.remaining_folders()) == (0, [])


def test_process_has_limits_and_ignores_sigterm(start: Callable[[], Child], server: GitServer) -> None:
    server.answers["/it"] = git_server.hang
    child = start()
    child.send(request_for(server.url("it", host="127.0.0.1")))
    wait_until(lambda: server.requests)
    process = psutil.Process(child.popen.pid)
    assert process.rlimit(psutil.RLIMIT_AS) == (module.MAX_MEMORY_BYTES,) * 2
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (64 * MEGABYTE,) * 2
    child.popen.send_signal(signal.SIGTERM)
    assert child.popen.stdin
    child.popen.stdin.close()
    assert (child.popen.wait(10), child.remaining_folders()) == (0, [])


def test_closed_stdin_ends_process_and_git_and_removes_the_clone(start: Callable[[], Child], server: GitServer) -> None:
    def hang_at_git(handler: git_server.Handler) -> None:
        if len(server.requests) == 1:
            return handler.reply(200, Content_Type=git_server.ADVERTISEMENT)
        return git_server.hang(handler)

    server.answers["/it"] = hang_at_git
    child = start()
    child.send(request_for(server.url("it", host="127.0.0.1")))
    wait_until(lambda: len(server.requests) == 2)
    started = child.git_processes()
    assert len(started) >= 2
    assert len(child.remaining_folders()) == 1
    assert child.popen.stdin
    child.popen.stdin.close()
    assert child.popen.wait(10) == 0
    wait_until(lambda: not any(alive(process) for process in started), what="git to end")
    assert child.remaining_folders() == []


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (MemoryError(), {"error": module.OUT_OF_MEMORY, "permanent": True}),
        (GitError("fatal: bad object"), {"error": "git can't read this repository: fatal: bad object", "permanent": True}),
        (GitError("fatal: No space left on device"), {"error": NO_SPACE, "permanent": False}),
        (RuntimeError("/a/path"), {"error": module.UNEXPECTED, "permanent": False}),
    ],
)
def test_unexpected_exception_is_reported_without_details(
    error: Exception, outcome: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = create_repository(tmp_path / "it.git")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(report, "build", fail)
    request = request_for(path, roots=[str(tmp_path)])
    assert run(request, tmp_path / "scratch", Output()) == outcome


def test_roots_are_checked_again_at_the_start(tmp_path: Path) -> None:
    """The configured roots may have changed since the analysis was requested."""
    path = create_repository(tmp_path / "it.git")
    outcome = run(request_for(path), tmp_path, Output())
    assert (outcome["permanent"], "not below an allowed folder" in outcome["error"]) == (True, True)


def test_progress_of_fetch_and_report_is_combined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(*arguments: Any) -> None:
        for fraction in (0, 0.5, 0.25, 1):
            arguments[4](fraction, f"fetch {fraction}")

    def build(*arguments: Any) -> dict[str, Any]:
        for fraction in (0, 0.5, 1):
            arguments[-1](fraction, f"report {fraction}")
        return {}

    monkeypatch.setattr(clone, "fetch", fetch)
    monkeypatch.setattr(report, "build", build)
    run(request_for("https://git.example/a"), tmp_path, Output())
    percents = [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]
    assert percents == [0, 30, 30, 60, 60, 79, 99]


def test_progress_of_the_same_step_is_throttled(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    for percent in range(100):
        output.progress(percent, "counting")
    assert len(capsys.readouterr().out.splitlines()) < 50


def test_file_size_is_limited(tmp_path: Path) -> None:
    limit = module.MIN_FILE_SIZE_LIMIT_BYTES
    write = f"file = open({str(tmp_path / 'x')!r}, 'wb', 0); file.truncate({limit}); file.seek({limit}); file.write(b'x')"
    code = f"from app.analysis.__main__ import set_limits; set_limits({MEGABYTE}); {write}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), stderr=subprocess.PIPE, check=False)
    assert (done.returncode, b"File too large" in done.stderr) == (1, True)
    assert (tmp_path / "x").stat().st_size == limit
