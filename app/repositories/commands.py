"""`flask analyse`: an analysis without server, account or database."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import click
from flask import Flask

from app.core import config, timestamps
from app.core.config import ConfigError
from app.repositories import report_text
from app.repositories.analysis_process import AnalysisFailed, AnalysisRequest, run_analysis

BELOW_MINIMUM, NOT_ANALYSED, INTERRUPTED = 1, 2, 130
SETTINGS = "repository_allowed_networks", "repository_max_mb", "repository_timeout"
FORMATS = {
    "text": report_text.as_text,
    "json": lambda _url, report: json.dumps(report, indent=2) + "\n",
    "markdown": report_text.as_markdown,
}
_OPTIONS_WITH_VALUE = {"-A", "--app", "-e", "--env-file"}  # of the command `flask` itself


class NotAnalysed(click.ClickException):
    """The repository can't be analysed. The reason is shown in one line."""

    exit_code = NOT_ANALYSED

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split()))


class Time(click.ParamType[datetime]):
    """A date, which means its end in UTC, or a time with its zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        now = datetime.now(UTC)
        try:
            found = timestamps.parse(value)
        except ValueError:
            self.fail("must look like 2025-12-31 or 2025-12-31T18:00:00Z", param, ctx)
        if found > now:
            self.fail("must not be in the future", param, ctx)
        is_date = "T" not in value and " " not in value
        return min(now, datetime.combine(found, time(23, 59, 59), UTC)) if is_date else found


@click.command()
@click.argument("address")
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), default="text", show_default=True)
@click.option("--min", "minimum", type=click.IntRange(0, 100), help="Exit with status 1 if the overall score is lower.")
@click.option("--as-of", type=Time(), help="Analyse the repository as it was then: 2025-12-31 or 2025-12-31T18:00:00Z.")
def analyse(address: str, format_name: str, minimum: int | None, as_of: datetime | None) -> None:
    """Analyse the repository at ADDRESS: a path, or an address such as https://github.com/pallets/flask.

    The report is written to standard output, and progress to standard error. The exit status is 1 if the overall score is below
    the minimum, and 2 if the repository can't be analysed, or has no overall score to compare with the minimum.
    """
    logging.disable(logging.CRITICAL)  # the reason of a failure is in its error message
    request = _request(address, as_of)
    progress = _Progress()
    try:
        report = run_analysis(request, progress.show, heartbeat=lambda: True)
    except AnalysisFailed as failed:
        progress.clear()
        raise NotAnalysed(str(failed)) from None
    except KeyboardInterrupt:
        progress.clear()
        sys.exit(INTERRUPTED)
    progress.clear()
    _write(FORMATS[format_name](request.url, report))
    if minimum is not None:
        _compare(report["scores"]["overall"]["score"], minimum)


def _write(text: str) -> None:
    """Write the report to standard output. A reader such as `head` may close it early."""
    try:
        click.echo(text.encode(sys.stdout.encoding, errors="replace"), nl=False)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would fail again at its end
        if not isinstance(error, BrokenPipeError):
            raise NotAnalysed(f"the report can't be written: {error.strerror}") from None


def _compare(overall: int | None, minimum: int) -> None:
    if overall is None:
        raise NotAnalysed(f"there is no overall score to compare with the minimum of {minimum}")
    if overall < minimum:
        click.echo(f"The overall score of {overall} is below the minimum of {minimum}.", err=True)
        sys.exit(BELOW_MINIMUM)


def _request(address: str, as_of: datetime | None) -> AnalysisRequest:
    _forget_env_files()
    try:
        settings = config.read_settings(SETTINGS)
    except ConfigError as error:
        raise NotAnalysed(str(error)) from None
    path = _local_path(address)
    return AnalysisRequest(
        url=str(path or address),
        as_of=(as_of or datetime.now(UTC)).isoformat(timespec="seconds"),
        is_past=as_of is not None,
        roots=["/"] if path else [],  # the user of this command may read what the user of this machine may read
        allowed_networks=[str(network) for network in settings["repository_allowed_networks"]],
        max_bytes=settings["repository_max_mb"] * 1024**2,
        timeout_seconds=settings["repository_timeout"],
    )


def _forget_env_files() -> None:
    """Restore the environment: `flask` has read `.env` of the current folder, which may be the repository of somebody else."""
    original = dict(config.original_environment())
    os.environ.clear()
    os.environ.update(original)


def _local_path(address: str) -> Path | None:
    """Return the path of the repository that contains a file or folder, as for git; None if the address is not a path."""
    path = Path(os.path.abspath(address))  # noqa: PTH100 - `resolve` would follow links, and fail for some
    if not address.startswith(("/", ".")) and not os.path.lexists(path):
        return None
    return next((folder for folder in (path, *path.parents) if _is_repository(folder)), path)


def _is_repository(folder: Path) -> bool:
    return os.path.lexists(folder / ".git") or (os.path.lexists(folder / "HEAD") and (folder / "objects").is_dir())


class _Progress:
    """Shows progress on standard error: one line that changes on a terminal, otherwise a line for each step."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._step = ""
        self.show(0, "Starting")

    def show(self, percent: int, step: str) -> None:
        if self._is_terminal:
            click.echo(f"\r\x1b[K{percent:3} %  {step}", err=True, nl=False)
        elif step != self._step:
            click.echo(f"{percent:3} %  {step}", err=True)
        self._step = step

    def clear(self) -> None:
        if self._is_terminal:
            click.echo("\r\x1b[K", err=True, nl=False)


def is_requested(arguments: Sequence[str]) -> bool:
    """Return whether `flask` was started with these arguments to run this command."""
    remaining = iter(arguments)
    for argument in remaining:
        if argument in _OPTIONS_WITH_VALUE:
            next(remaining, None)
        elif not argument.startswith("-"):
            return argument == analyse.name and "FLASK_RUN_FROM_CLI" in os.environ
    return False


def app_with_command() -> Flask:
    """Return an application with only this command. It needs no settings, and starts faster than the whole application."""
    app = Flask(__name__)
    app.cli.add_command(analyse)
    return app
