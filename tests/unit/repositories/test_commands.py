"""`flask analyse`: what it writes where, and its exit status."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.repositories import commands
from app.repositories.analysis_process import AnalysisFailed, AnalysisRequest
from harness.git_server import create_repository, git
from harness.repositories import Commit, Tag, build
from harness.servers import PROGRAMS, ROOT, base_environment

Analyse = Callable[..., Result]

REPORT: dict[str, Any] = {
    "head": "0123456789abcdef",
    "as_of": "2025-10-03T20:00:00Z",
    "is_shallow": False,
    "scores": {
        "activity": {"score": 70, "evidence": ["The file \x1b[31m<b>a|b</b> was changed."], "advice": "Commit more often."},
        "community": {"score": None, "evidence": ["Nothing is known."], "advice": None},
        "releases": {"score": 35, "evidence": ["Two releases.", "One year apart."], "advice": None},
        "overall": {"score": 53, "evidence": ["The mean."], "advice": None},
    },
    "verdict": {
        "headline": "Active, but seldom released.",
        "bands": {"activity": "strong", "community": None, "releases": "weak", "overall": "fair"},
    },
}


@pytest.fixture
def analyse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Analyse]:
    """Run the command with a given report or failure in place of an analysis. `result.request` is what it asked for."""

    def run(*arguments: str, outcome: dict[str, Any] | BaseException = REPORT) -> Result:
        requests: list[AnalysisRequest] = []

        def run_analysis(request: AnalysisRequest, report_progress: Callable[[int, str], None], **_: object) -> dict[str, Any]:
            requests.append(request)
            report_progress(10, "Reading")
            report_progress(20, "Reading")
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(commands, "run_analysis", run_analysis)
        result = CliRunner().invoke(commands.analyse, arguments)
        result.request = requests[0] if requests else None  # type: ignore[attr-defined]
        return result

    yield run
    logging.disable(logging.NOTSET)


def test_text_begins_with_the_headline_and_the_weakest_score(analyse: Analyse) -> None:
    result = analyse("pallets/flask")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "pallets/flask",
        "Commit 0123456789ab, as of 2025-10-03T20:00:00Z",
        "Active, but seldom released.",
        "",
        "Overall         53  fair",
        "    The mean.",
        "",
        "Releases        35  weak",
        "    Two releases.",
        "    One year apart.",
        "",
        "Activity        70  strong",
        "    The file �[31m<b>a|b</b> was changed.",
        "    To raise it: Commit more often.",
        "",
        "Community        –",
        "    Nothing is known.",
    ]
    assert result.stderr.splitlines() == ["  0 %  Starting", " 10 %  Reading"]


def test_markdown_is_not_changed_by_the_content(analyse: Analyse) -> None:
    lines = analyse("pallets/flask", "--format", "markdown").stdout.splitlines()
    assert lines[0] == "## pallets/flask"
    assert "Active, but seldom released." in lines
    assert lines[-5:-2] == [
        "|---|---|---|---|---|",
        "| Overall | 53 | fair | The mean. |  |",
        "| Releases | 35 | weak | Two releases. One year apart. |  |",
    ]
    assert lines[-2] == r"| Activity | 70 | strong | The file �\[31m\<b\>a\|b\</b\> was changed. | Commit more often. |"


def test_reports_of_shallow_and_empty_repositories(analyse: Analyse) -> None:
    changes: dict[str, Any] = {"head": None, "is_shallow": True, "verdict": {"headline": None, "bands": {}}}
    text = analyse("pallets/flask", outcome=REPORT | changes).stdout
    assert text.splitlines()[1:4] == [
        "No commits, as of 2025-10-03T20:00:00Z",
        "The history of this repository is cut off. Fetch all of it to get every score.",
        "",
    ]


@pytest.mark.parametrize(("minimum", "status"), [("53", 0), ("54", 1)])
def test_status_says_whether_the_minimum_is_reached(minimum: str, status: int, analyse: Analyse) -> None:
    result = analyse("pallets/flask", "--format", "json", "--min", minimum)
    assert (result.exit_code, json.loads(result.stdout)) == (status, REPORT)
    assert ("below the minimum of 54" in result.stderr) == bool(status)


def test_missing_overall_score_is_no_success(analyse: Analyse) -> None:
    scores: dict[str, Any] = {"overall": {"score": None, "evidence": [], "advice": None}}
    assert analyse("pallets/flask", outcome=REPORT | {"scores": scores}).exit_code == 0
    result = analyse("pallets/flask", "--min", "0", outcome=REPORT | {"scores": scores})
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        "Error: there is no overall score to compare with the minimum of 0",
    )


def test_reason_of_a_failure_is_one_line(analyse: Analyse) -> None:
    result = analyse("pallets/flask", outcome=AnalysisFailed("There is\nno repository.", permanent=True))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[2:] == ["Error: There is no repository."]


def test_interrupted_command_prints_no_report(analyse: Analyse) -> None:
    result = analyse("pallets/flask", outcome=KeyboardInterrupt())
    assert (result.exit_code, result.stdout) == (130, "")


def test_settings_limit_the_analysis(analyse: Analyse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPOSITORY_MAX_MB", "3")
    monkeypatch.setenv("USE_REDIS_SESSIONS", "true")  # its other settings are missing, but not needed
    request = analyse("pallets/flask").request  # type: ignore[attr-defined]
    assert (request.max_bytes, request.timeout_seconds, request.roots) == (3 * 1024**2, 600, [])
    monkeypatch.setenv("REPOSITORY_TIMEOUT", "soon")
    result = analyse("pallets/flask")
    assert (result.exit_code, "Error: REPOSITORY_TIMEOUT: " in result.stderr) == (2, True)


def test_local_paths(analyse: Analyse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = create_repository(tmp_path / "with space" / "bare.git")
    git(tmp_path, "clone", "--quiet", str(bare), "tree")
    (tmp_path / "tree" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "tree" / "sub")
    for address, path in {
        ".": tmp_path / "tree",
        "..": tmp_path / "tree",
        "../file": tmp_path / "tree",
        "../.git": tmp_path / "tree",
        "../../with space/bare.git": bare,
        str(bare): bare,
        str(tmp_path): tmp_path,
    }.items():
        request = analyse(address).request  # type: ignore[attr-defined]
        assert request.url.removesuffix("/.git") == str(path)
        assert request.roots == ["/"]
    assert analyse("owner/name").request.roots == []  # type: ignore[attr-defined]
    (tmp_path / "tree" / "sub" / "owner" / "name").mkdir(parents=True)
    assert analyse("owner/name").request.roots == ["/"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "as_of"),
    [
        ("2025-12-31", "2025-12-31T23:59:59+00:00"),
        ("2025-12-31T18:00:00+01:00", "2025-12-31T17:00:00+00:00"),
        ("2025-12-31T18:00:00", None),
        ("2999-01-01", None),
        ("yesterday", None),
    ],
)
def test_time_of_the_report(text: str, as_of: str | None, analyse: Analyse) -> None:
    result = analyse("pallets/flask", "--as-of", text)
    request = result.request  # type: ignore[attr-defined]
    assert (request and (request.as_of, request.is_past)) == (as_of and (as_of, True))
    assert result.exit_code == (0 if as_of else 2)


def test_today_is_not_in_the_future(analyse: Analyse) -> None:
    now = datetime.now(UTC)
    request = analyse("pallets/flask", "--as-of", now.date().isoformat()).request  # type: ignore[attr-defined]
    assert abs((datetime.fromisoformat(request.as_of) - now).total_seconds()) < 60


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--app", "wsgi", "analyse", "."], True),
        (["--app=wsgi", "--debug", "analyse"], True),
        (["-A", "analyse", "-e", "x", "notify", "a@example.org", "analyse"], False),
        (["--help"], False),
    ],
)
def test_command_is_recognised(arguments: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    assert commands.is_requested(arguments) is expected


def test_command_in_the_job_of_another_project(tmp_path: Path) -> None:
    """It runs without settings, ignores `.env` of the project, and analyses it as it was at a time."""
    day = datetime(2025, 1, 1, tzinfo=UTC)
    start = int(day.timestamp())
    commits = [Commit(start - 1), Commit(start + 86_399), Commit(start + 86_400, files={b"README.md": b"x\n"})]
    tags = [Tag("v1.0", 1), Tag("v1.1", 1, at=start + 86_400), Tag("v2.0", 2)]
    project = build(tmp_path / "project", commits, tags)
    (project / ".env").write_text("REPOSITORY_TIMEOUT=wrong\nTMPDIR=/missing\n")
    command = [str(PROGRAMS / "flask"), "--app", str(ROOT / "wsgi.py"), "analyse", ".", "--format", "json"]
    variables = base_environment() | {"USE_REDIS_SESSIONS": "true", "TMPDIR": str(tmp_path)}

    def run(*options: str) -> dict[str, Any]:
        done = subprocess.run([*command, *options], cwd=project, env=variables, capture_output=True, text=True, check=True)
        assert done.stderr.startswith("  0 %  Starting\n")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    report = run()
    assert (report["commits"], report["tags"], report["files"]) == (3, 3, 1)
    report = run("--as-of", "2025-01-01")
    assert (report["commits"], report["tags"], report["files"], report["as_of"]) == (2, 1, 0, "2025-01-01T23:59:59Z")
    assert report["releases"]["latest"] == "v1.0"
    assert run("--as-of", "2020-01-01")["head"] is None


def test_output_that_takes_no_report(tmp_path: Path) -> None:
    """The status is not the one of a score below the minimum. A text that the output can't encode is replaced."""
    project = build(tmp_path / "project")
    command = [str(PROGRAMS / "flask"), "--app", str(ROOT / "wsgi.py"), "analyse", str(project)]
    variables = base_environment() | {"TMPDIR": str(tmp_path), "PYTHONIOENCODING": "ascii"}

    def run(output: str) -> tuple[int, list[str]]:
        shell = ["bash", "-c", f'"$@" {output}; exit ${{PIPESTATUS[0]}}', "bash", *command]
        done = subprocess.run(shell, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, [line for line in done.stderr.splitlines() if " % " not in line]

    assert run("| cat") == (0, [])
    assert run("| exec 0<&-") == (0, [])
    assert run("> /dev/full") == (2, ["Error: the report can't be written: No space left on device"])
