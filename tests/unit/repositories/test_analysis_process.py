"""The supervision of real child processes: analyses, and processes that misbehave."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.core import config
from app.jobs.failures import JobStopped
from app.repositories import analysis_process
from app.repositories.analysis_process import AnalysisFailed, AnalysisRequest, run_analysis
from harness import git_server
from harness.git_server import GitServer, create_repository
from harness.lateness import measured_lateness
from harness.processes import wait_until
from harness.servers import ROOT, base_environment, embedded_environment

MEGABYTE = 1024**2


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for the clones of the processes."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    (tmp_path / "served").mkdir()
    with GitServer(tmp_path / "served", tmp_path) as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.authority))
        yield server


def request_for(url: str, **changes: Any) -> AnalysisRequest:
    request = AnalysisRequest(
        url=url,
        as_of="2026-01-01T00:00:00+00:00",
        roots=[],
        allowed_networks=["127.0.0.0/8"],
        max_bytes=64 * MEGABYTE,
        timeout_seconds=30,
    )
    return replace(request, **changes)


ANY = request_for("https://git.example/a/b")


def replace_process(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Replace the analysis process, which starts much slower."""
    preamble = "import json, os, signal, sys, time\nrequest = json.loads(sys.stdin.readline())\n"
    preamble += "def send(**line): print(json.dumps(line), flush=True)\n"
    monkeypatch.setattr(analysis_process, "COMMAND", [sys.executable, "-I", "-S", "-c", preamble + code])
    monkeypatch.setattr(analysis_process, "_remove_abandoned_clones", lambda: None)  # it has no clone


def failure_of(request: AnalysisRequest = ANY) -> AnalysisFailed:
    with pytest.raises(AnalysisFailed) as caught:
        run_analysis(request, ignore, continue_always)
    return caught.value


def continue_always() -> bool:
    return True


def ignore(percent: int, step: str) -> None:
    pass


def remaining_clones(temporary: Path) -> list[Path]:
    return [path for path in temporary.glob("*/*") if path.is_dir()]


def hang_at_git(handler: git_server.Handler) -> None:
    """Answer the requests of our own code, and let those of git hang."""
    if handler.headers["User-Agent"].endswith("(RepoRadar)"):
        return handler.reply(200, Content_Type=git_server.ADVERTISEMENT)
    return git_server.hang(handler)


_earlier: set[psutil.Process] = set()  # such as servers that tests share


@pytest.fixture(autouse=True)
def earlier() -> None:
    _earlier.clear()
    _earlier.update(psutil.Process().children(recursive=True))


def started() -> list[psutil.Process]:
    """Return the live processes that this test has started."""
    return [process for process in psutil.Process().children(recursive=True) if process not in _earlier]


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Real analyses.


def test_report_and_progress_are_returned(server: GitServer, temporary: Path) -> None:
    create_repository(server.folder / "it.git", commits=3)
    reported: list[tuple[int, str]] = []
    report = run_analysis(
        request_for(server.url("it", "127.0.0.1")), lambda *progress: reported.append(progress), continue_always
    )
    assert (report["commits"], report["as_of"]) == (3, "2026-01-01T00:00:00Z")
    assert reported[0] == (0, "Connecting")
    assert [percent for percent, _ in reported] == sorted(percent for percent, _ in reported)
    assert remaining_clones(temporary) == []


def test_failure_of_the_analysis_is_raised(server: GitServer) -> None:
    failure = failure_of(request_for(server.url("missing", "127.0.0.1")))
    assert (str(failure), failure.permanent) == ("There is no public repository at this address.", True)


@pytest.mark.parametrize("answer", [git_server.hang, hang_at_git])
def test_analysis_times_out(answer: git_server.Answer, server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = answer
    failure = failure_of(request_for(server.url("it", "127.0.0.1"), timeout_seconds=2))
    assert (str(failure), failure.permanent) == ("The analysis took longer than 2 seconds.", True)
    assert (started(), remaining_clones(temporary)) == ([], [])


def test_stopping_kills_git_and_removes_the_clone(server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = hang_at_git
    seen: list[psutil.Process] = []
    niceness: set[int] = set()

    def heartbeat() -> bool:
        if len(server.requests) < 2:
            return True
        seen.extend(started())
        niceness.update(process.nice() for process in seen)
        return False

    with pytest.raises(JobStopped):
        run_analysis(request_for(server.url("it", "127.0.0.1")), ignore, heartbeat)
    assert len(seen) >= 3  # the analysis, and at least two git processes
    assert niceness == {min(psutil.Process().nice() + analysis_process.NICENESS, 19)}  # the lowest priority that exists
    wait_until(lambda: not any(map(alive, seen)), what="all processes to end")
    assert remaining_clones(temporary) == []


def test_killed_process_leaves_no_clone(server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = hang_at_git
    seen: list[psutil.Process] = []

    def heartbeat() -> bool:
        if len(server.requests) == 2 and not seen:
            assert len(remaining_clones(temporary)) == 1
            seen.extend(started())
            seen[0].kill()
        return True

    with pytest.raises(AnalysisFailed) as caught:
        run_analysis(request_for(server.url("it", "127.0.0.1")), ignore, heartbeat)
    assert (str(caught.value), caught.value.permanent) == (analysis_process.CRASHED, False)
    wait_until(lambda: not any(map(alive, seen)), what="all processes to end")
    assert remaining_clones(temporary) == []


PARENT = """
import json, sys
from app.repositories.analysis_process import AnalysisRequest, run_analysis
run_analysis(AnalysisRequest(**json.loads(sys.argv[1])), lambda *_: None, lambda: True)
"""


def test_killed_parent_ends_all_descendants(server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = hang_at_git
    request = request_for(server.url("it", "127.0.0.1"))
    variables = base_environment() | {"SSL_CERT_FILE": str(server.authority), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", PARENT, json.dumps(asdict(request))]
    with subprocess.Popen(command, cwd=ROOT, env=variables) as parent:
        wait_until(lambda: len(server.requests) == 2)
        started = psutil.Process(parent.pid).children(recursive=True)
        assert len(started) >= 3
        assert all(map(alive, started))
        assert len(remaining_clones(temporary)) == 1
        parent.kill()
    wait_until(lambda: not any(map(alive, started)), what="all processes to end")
    wait_until(lambda: not remaining_clones(temporary), what="the clone to be removed")


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent, json, sys, time
from app.repositories.analysis_process import AnalysisFailed, AnalysisRequest, run_analysis

gaps, last = [], time.monotonic()

def beat():
    global last
    while True:
        gevent.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()

def outcome(request):
    try:
        return run_analysis(request, lambda *_: None, lambda: True)["commits"]
    except AnalysisFailed as failure:
        return str(failure)

requests = [AnalysisRequest(**request) for request in json.loads(sys.argv[1])]
gevent.spawn(beat)
gevent.sleep(0.1)
gaps.clear()
jobs = [gevent.spawn(outcome, request) for request in requests]
gevent.joinall(jobs)
print(json.dumps([[job.value for job in jobs], len(gaps), max(gaps)]))
"""


def test_other_greenlets_are_not_blocked(server: GitServer, temporary: Path) -> None:
    """Two concurrent analyses in a patched process, one of which fails. The limits allow for a busy machine."""
    create_repository(server.folder / "it.git", commits=3)
    requests = [request_for(server.url(path, "127.0.0.1")) for path in ("it", "missing")]
    variables = base_environment() | {"SSL_CERT_FILE": str(server.authority), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", GREENLETS, json.dumps([asdict(request) for request in requests])]
    with measured_lateness() as lateness:
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, check=True)
    outcomes, beats, longest = json.loads(done.stdout)
    assert outcomes == [3, "There is no public repository at this address."]
    assert beats > 50
    assert longest < 0.5 + lateness.slack


# Processes that misbehave.


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "sys.exit(3)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "print('garbage', flush=True); time.sleep(60)",
        "print('[' * 100_000, flush=True); time.sleep(60)",
        "print('null', flush=True); time.sleep(60)",
        "send(progress='x', step=1); time.sleep(60)",
        "send(report=[1]); time.sleep(60)",
        "send(error='x'); time.sleep(60)",
        "sys.stdout.write('{\"report\": {'); sys.stdout.flush()",
        "sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush(); time.sleep(60)",
    ],
)
def test_process_that_exits_or_prints_garbage_counts_as_crashed(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_process, "STOP_TIMEOUT_SECONDS", 0.1)
    replace_process(monkeypatch, code)
    failure = failure_of()
    assert (str(failure), failure.permanent) == (analysis_process.CRASHED, False)
    assert started() == []


@pytest.mark.parametrize("line", ["b'x' * 65536", 'b\'{"progress": 1, "step": "x"}\\n\' * 1000'])
def test_endless_output_counts_as_crashed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_process, "MAX_OUTPUT_BYTES", MEGABYTE)
    monkeypatch.setattr(analysis_process, "STOP_TIMEOUT_SECONDS", 0.1)
    replace_process(monkeypatch, f"while True: sys.stdout.buffer.write({line})")
    assert str(failure_of()) == analysis_process.CRASHED


def test_process_that_ignores_sigterm_is_killed_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_process, "STOP_TIMEOUT_SECONDS", 0.1)
    replace_process(monkeypatch, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)")
    failure = failure_of(replace(ANY, timeout_seconds=1))
    assert (str(failure), failure.permanent) == ("The analysis took longer than 1 seconds.", True)
    assert started() == []


def test_heartbeat_is_called_twice_a_second_without_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_process, "STOP_TIMEOUT_SECONDS", 0.1)
    replace_process(monkeypatch, "time.sleep(60)")
    calls: list[float] = []

    def heartbeat() -> bool:
        calls.append(time.monotonic())
        return len(calls) < 4

    with pytest.raises(JobStopped):
        run_analysis(ANY, ignore, heartbeat)
    assert calls[-1] - calls[0] < 1.5


def test_exception_in_a_callback_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_process(monkeypatch, "send(progress=1, step='x'); sys.stdin.read()")

    def report_progress(percent: int, step: str) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run_analysis(ANY, report_progress, continue_always)
    assert started() == []


def test_process_that_can_not_be_started_counts_as_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_process, "COMMAND", ["/missing/program"])
    failure = failure_of()
    assert (str(failure), failure.permanent) == (analysis_process.CRASHED, False)


def test_failed_process_is_logged_in_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    replace_process(monkeypatch, "sys.stderr.write('x' * 100_000 + 'Traceback\\n  \\x1b[31mline\\n'); sys.exit(1)")
    with caplog.at_level(logging.INFO):
        failure_of()
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("analysis process for https://git.example/a/b exited with status 1, stderr: x")
    assert text.endswith("xTraceback | ?[31mline")
    assert len(text) < analysis_process.MAX_STDERR_BYTES + 200


def test_successful_process_is_not_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    replace_process(monkeypatch, "send(report={'a': 1})")
    with caplog.at_level(logging.INFO):
        assert run_analysis(ANY, ignore, continue_always) == {"a": 1}
    assert caplog.records == []


def test_process_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET", "s" * 32)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    replace_process(monkeypatch, "send(report={'environment': sorted(os.environ), 'request': request})")
    report = run_analysis(ANY, ignore, continue_always)
    known = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "GIT_SSL_CAINFO", "SSL_CERT_FILE"}
    assert set(report["environment"]) <= known
    assert report["request"] == asdict(ANY)


def test_no_descriptors_or_zombies_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_process(monkeypatch, "send(progress=1, step='x'); send(report={}) if 'good' in request['url'] else sys.exit(1)")
    good = replace(ANY, url="https://git.example/good")

    def both() -> int:
        run_analysis(good, ignore, continue_always)
        failure_of()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - short

    before = both()
    assert [both() for _ in range(10)] == [before] * 10
    assert started() == []


def test_request_contains_the_configured_limits(tmp_path: Path) -> None:
    environment = embedded_environment(tmp_path) | {
        "REPOSITORY_ROOTS": "/srv/git:/home/git",
        "REPOSITORY_ALLOWED_NETWORKS": "10.1.0.0/16",
        "REPOSITORY_MAX_MB": "10",
        "REPOSITORY_TIMEOUT": "20",
    }
    request = AnalysisRequest.create("https://git.example/a", config.load(environment))
    assert (request.roots, request.allowed_networks) == (["/srv/git", "/home/git"], ["10.1.0.0/16"])
    assert (request.max_bytes, request.timeout_seconds) == (10 * MEGABYTE, 20)
    assert json.loads(json.dumps(asdict(request))) == asdict(request)
    assert request.as_of.endswith("+00:00")


def test_analysis_ignores_sigterm_because_its_parent_ends_it(server: GitServer) -> None:
    server.answers["/it"] = hang_at_git
    calls: list[int] = []

    def heartbeat() -> bool:
        if len(server.requests) == 2 and not calls:
            for process in started():
                process.send_signal(signal.SIGTERM)
        calls.append(len(server.requests))
        return calls.count(2) < 4

    with pytest.raises(JobStopped):
        run_analysis(request_for(server.url("it", "127.0.0.1")), ignore, heartbeat)
