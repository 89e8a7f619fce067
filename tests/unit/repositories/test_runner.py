"""The supervision of real processes: those that do analyses, and some that do what no analysis should."""

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
from app.repositories import runner
from app.repositories.runner import AnalysisFailed, Request, run
from harness import git_server
from harness.git_server import GitServer, create_repository
from harness.processes import wait_until
from harness.servers import ROOT, base_environment, embedded_environment

MEGABYTE = 1024**2


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes put their clones."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    (tmp_path / "served").mkdir()
    with GitServer(tmp_path / "served", tmp_path) as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.authority))
        yield server


def request_for(url: str, **changes: Any) -> Request:
    request = Request(
        url=url,
        as_of="2026-01-01T00:00:00+00:00",
        roots=[],
        allowed_networks=["127.0.0.0/8"],
        max_bytes=64 * MEGABYTE,
        timeout_seconds=30,
    )
    return replace(request, **changes)


ANY = request_for("https://git.example/a/b")


def child_that(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Stands in for the process of an analysis, which starts much slower."""
    preamble = "import json, os, signal, sys, time\nrequest = json.loads(sys.stdin.readline())\n"
    preamble += "def say(**line): print(json.dumps(line), flush=True)\n"
    monkeypatch.setattr(runner, "COMMAND", [sys.executable, "-I", "-S", "-c", preamble + code])
    monkeypatch.setattr(runner, "_remove_what_it_left", lambda: None)  # it has no folder


def failure_of(request: Request = ANY) -> AnalysisFailed:
    with pytest.raises(AnalysisFailed) as caught:
        run(request, ignore, always)
    return caught.value


def always() -> bool:
    return True


def ignore(percent: int, step: str) -> None:
    pass


def left_behind(temporary: Path) -> list[Path]:
    return [path for path in temporary.glob("*/*") if path.is_dir()]


def hang_at_git(handler: git_server.Handler) -> None:
    """Answers us, and lets git wait."""
    if handler.headers["User-Agent"].endswith("(RepoRadar)"):
        return handler.reply(200, Content_Type=git_server.ADVERTISEMENT)
    return git_server.hang(handler)


_earlier: set[psutil.Process] = set()  # what other tests share, such as servers


@pytest.fixture(autouse=True)
def earlier() -> None:
    _earlier.clear()
    _earlier.update(psutil.Process().children(recursive=True))


def started() -> list[psutil.Process]:
    """By this test, as far as it is still there."""
    return [process for process in psutil.Process().children(recursive=True) if process not in _earlier]


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Real analyses.


def test_a_report_with_progress(server: GitServer, temporary: Path) -> None:
    create_repository(server.folder / "it.git", commits=3)
    told: list[tuple[int, str]] = []
    report = run(request_for(server.url("it", "127.0.0.1")), lambda *word: told.append(word), always)
    assert (report["commits"], report["as_of"]) == (3, "2026-01-01T00:00:00Z")
    assert told[0] == (0, "Connecting")
    assert [percent for percent, _ in told] == sorted(percent for percent, _ in told)
    assert left_behind(temporary) == []


def test_a_failure_as_the_analysis_tells_it(server: GitServer) -> None:
    failure = failure_of(request_for(server.url("missing", "127.0.0.1")))
    assert (str(failure), failure.permanent) == ("There is no public repository at this address.", True)


@pytest.mark.parametrize("answer", [git_server.hang, hang_at_git])
def test_an_analysis_that_takes_too_long(answer: git_server.Answer, server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = answer
    failure = failure_of(request_for(server.url("it", "127.0.0.1"), timeout_seconds=2))
    assert (str(failure), failure.permanent) == ("The analysis took longer than 2 seconds.", True)
    assert (started(), left_behind(temporary)) == ([], [])


def test_stopping_ends_git_and_removes_the_clone(server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = hang_at_git
    seen: list[psutil.Process] = []
    niceness: set[int] = set()

    def keep_going() -> bool:
        if len(server.requests) < 2:
            return True
        seen.extend(started())
        niceness.update(process.nice() for process in seen)
        return False

    with pytest.raises(JobStopped):
        run(request_for(server.url("it", "127.0.0.1")), ignore, keep_going)
    assert len(seen) >= 3  # itself, and at least two of git's
    assert niceness == {psutil.Process().nice() + runner.NICENESS}
    wait_until(lambda: not any(map(alive, seen)), what="all processes to be gone")
    assert left_behind(temporary) == []


def test_a_process_that_is_killed_leaves_nothing(server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = hang_at_git
    seen: list[psutil.Process] = []

    def keep_going() -> bool:
        if len(server.requests) == 2 and not seen:
            assert len(left_behind(temporary)) == 1
            seen.extend(started())
            seen[0].kill()
        return True

    with pytest.raises(AnalysisFailed) as caught:
        run(request_for(server.url("it", "127.0.0.1")), ignore, keep_going)
    assert (str(caught.value), caught.value.permanent) == (runner.CRASHED, False)
    wait_until(lambda: not any(map(alive, seen)), what="all processes to be gone")
    assert left_behind(temporary) == []


PARENT = """
import json, sys
from app.repositories.runner import Request, run
run(Request(**json.loads(sys.argv[1])), lambda *_: None, lambda: True)
"""


def test_a_parent_that_is_killed_takes_all_along(server: GitServer, temporary: Path) -> None:
    server.answers["/it"] = hang_at_git
    request = request_for(server.url("it", "127.0.0.1"))
    variables = base_environment() | {"SSL_CERT_FILE": str(server.authority), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", PARENT, json.dumps(asdict(request))]
    with subprocess.Popen(command, cwd=ROOT, env=variables) as parent:
        wait_until(lambda: len(server.requests) == 2)
        started = psutil.Process(parent.pid).children(recursive=True)
        assert len(started) >= 3
        assert all(map(alive, started))
        assert len(left_behind(temporary)) == 1
        parent.kill()
    wait_until(lambda: not any(map(alive, started)), what="all processes to be gone")
    wait_until(lambda: not left_behind(temporary), what="the clone to be gone")


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent, json, sys, time
from app.repositories.runner import AnalysisFailed, Request, run

gaps, last = [], time.monotonic()

def beat():
    global last
    while True:
        gevent.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()

def outcome(request):
    try:
        return run(request, lambda *_: None, lambda: True)["commits"]
    except AnalysisFailed as failure:
        return str(failure)

requests = [Request(**request) for request in json.loads(sys.argv[1])]
gevent.spawn(beat)
gevent.sleep(0.1)
gaps.clear()
jobs = [gevent.spawn(outcome, request) for request in requests]
gevent.joinall(jobs)
print(json.dumps([[job.value for job in jobs], len(gaps), max(gaps)]))
"""


def test_greenlets_go_on_meanwhile(server: GitServer, temporary: Path) -> None:
    """Two at once in a patched process, one of which fails; with room for a machine that is busy otherwise."""
    create_repository(server.folder / "it.git", commits=3)
    requests = [request_for(server.url(path, "127.0.0.1")) for path in ("it", "missing")]
    variables = base_environment() | {"SSL_CERT_FILE": str(server.authority), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", GREENLETS, json.dumps([asdict(request) for request in requests])]
    done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, check=True)
    outcomes, beats, longest = json.loads(done.stdout)
    assert outcomes == [3, "There is no public repository at this address."]
    assert beats > 50
    assert longest < 0.5


# Processes that do what they should not.


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
        "say(progress='x', step=1); time.sleep(60)",
        "say(report=[1]); time.sleep(60)",
        "say(error='x'); time.sleep(60)",
        "sys.stdout.write('{\"report\": {'); sys.stdout.flush()",
        "sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush(); time.sleep(60)",
    ],
)
def test_a_process_that_ends_or_prints_garbage(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.1)
    child_that(monkeypatch, code)
    failure = failure_of()
    assert (str(failure), failure.permanent) == (runner.CRASHED, False)
    assert started() == []


@pytest.mark.parametrize("line", ["b'x' * 65536", 'b\'{"progress": 1, "step": "x"}\\n\' * 1000'])
def test_output_without_an_end(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_OUTPUT_BYTES", MEGABYTE)
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.1)
    child_that(monkeypatch, f"while True: sys.stdout.buffer.write({line})")
    assert str(failure_of()) == runner.CRASHED


def test_a_process_that_hangs_and_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.1)
    child_that(monkeypatch, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)")
    failure = failure_of(replace(ANY, timeout_seconds=1))
    assert (str(failure), failure.permanent) == ("The analysis took longer than 1 seconds.", True)
    assert started() == []


def test_keep_going_is_asked_twice_a_second_while_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.1)
    child_that(monkeypatch, "time.sleep(60)")
    moments: list[float] = []

    def keep_going() -> bool:
        moments.append(time.monotonic())
        return len(moments) < 4

    with pytest.raises(JobStopped):
        run(ANY, ignore, keep_going)
    assert moments[-1] - moments[0] < 1.5


def test_a_fault_of_the_caller_ends_the_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    child_that(monkeypatch, "say(progress=1, step='x'); sys.stdin.read()")

    def report_progress(percent: int, step: str) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run(ANY, report_progress, always)
    assert started() == []


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "COMMAND", ["/missing/program"])
    failure = failure_of()
    assert (str(failure), failure.permanent) == (runner.CRASHED, False)


def test_one_line_is_logged_of_a_process_that_failed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    child_that(monkeypatch, "sys.stderr.write('x' * 100_000 + 'Traceback\\n  \\x1b[31mline\\n'); sys.exit(1)")
    with caplog.at_level(logging.INFO):
        failure_of()
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("the process that analysed https://git.example/a/b ended with status 1 and said: x")
    assert text.endswith("xTraceback | ?[31mline")
    assert len(text) < runner.MAX_COMPLAINT_BYTES + 200


def test_nothing_is_logged_of_one_that_did_not(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    child_that(monkeypatch, "say(report={'a': 1})")
    with caplog.at_level(logging.INFO):
        assert run(ANY, ignore, always) == {"a": 1}
    assert caplog.records == []


def test_no_secret_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET", "s" * 32)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    child_that(monkeypatch, "say(report={'environment': sorted(os.environ), 'request': request})")
    report = run(ANY, ignore, always)
    known = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "GIT_SSL_CAINFO", "SSL_CERT_FILE"}
    assert set(report["environment"]) <= known
    assert report["request"] == asdict(ANY)


def test_no_descriptors_and_no_zombies_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    child_that(monkeypatch, "say(progress=1, step='x'); say(report={}) if 'good' in request['url'] else sys.exit(1)")
    good = replace(ANY, url="https://git.example/good")

    def both() -> int:
        run(good, ignore, always)
        failure_of()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as short as can be

    before = both()
    assert [both() for _ in range(10)] == [before] * 10
    assert started() == []


def test_the_request_says_what_the_configuration_allows(tmp_path: Path) -> None:
    environment = embedded_environment(tmp_path) | {
        "REPOSITORY_ROOTS": "/srv/git:/home/git",
        "REPOSITORY_ALLOWED_NETWORKS": "10.1.0.0/16",
        "REPOSITORY_MAX_MB": "10",
        "REPOSITORY_TIMEOUT": "20",
    }
    request = Request.of("https://git.example/a", config.load(environment))
    assert (request.roots, request.allowed_networks) == (["/srv/git", "/home/git"], ["10.1.0.0/16"])
    assert (request.max_bytes, request.timeout_seconds) == (10 * MEGABYTE, 20)
    assert json.loads(json.dumps(asdict(request))) == asdict(request)
    assert request.as_of.endswith("+00:00")


def test_a_signal_for_the_whole_service_leaves_the_analysis_to_its_parent(server: GitServer) -> None:
    server.answers["/it"] = hang_at_git
    asked: list[int] = []

    def keep_going() -> bool:
        if len(server.requests) == 2 and not asked:
            for process in started():
                process.send_signal(signal.SIGTERM)
        asked.append(len(server.requests))
        return asked.count(2) < 4

    with pytest.raises(JobStopped):
        run(request_for(server.url("it", "127.0.0.1")), ignore, keep_going)
