"""The analysis of a local repository, beside the literal git commands that define its numbers, run one after the other.

.venv/bin/python -m bench.analysis [REPOSITORY]
"""

import json
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from bench import machine
from bench.analysis_process import analysis_process
from harness.repositories import DAY, ENVIRONMENT, NOW, build, git, many

ROUNDS = 5
COMMITS, YEARS = 80_000, 5  # of the generated repository
MAX_RATIO, START_SECONDS = 1.5, 1.5
_TRUSTED = ("-c", "safe.directory=*")


@dataclass(frozen=True)
class Run:
    """Seconds of elapsed time and of CPU time, git included, and the elapsed seconds of each part."""

    elapsed: float
    cpu: float
    parts: dict[str, float]


def measure(repository: Path, rounds: int = ROUNDS) -> tuple[list[Run], list[Run]]:
    """Run the git commands and the analysis alternately, and return the runs of each."""
    runs = [(_run(_run_commands, repository), _run(_analyse, repository)) for _ in range(rounds)]
    return [commands for commands, _ in runs], [analysis for _, analysis in runs]


def is_within_limit(commands: Sequence[Run], analyses: Sequence[Run]) -> bool:
    """Return whether the CPU time of the analysis keeps the promise of docs/performance.md."""
    return median(run.cpu for run in analyses) <= MAX_RATIO * median(run.cpu for run in commands) + START_SECONDS


def table(commands: Sequence[Run], analyses: Sequence[Run]) -> str:
    """Return the times of both and their ratio, and the parts of both, as Markdown tables."""
    lines = ["| | elapsed, s | CPU, s |", "|---|---:|---:|"]
    medians = []
    for name, runs in (("git commands", commands), ("analysis", analyses)):
        medians.append((median(run.elapsed for run in runs), median(run.cpu for run in runs)))
        lines.append(f"| {name} | {medians[-1][0]:.2f} | {medians[-1][1]:.2f} |")
    lines.append(f"| ratio | {medians[1][0] / medians[0][0]:.2f} | {medians[1][1] / medians[0][1]:.2f} |")
    for name, runs in (("git command", commands), ("step of the analysis", analyses)):
        lines += ["", f"| {name} | elapsed, s |", "|---|---:|"]
        lines += [f"| `{part}` | {median(run.parts[part] for run in runs):.2f} |" for part in runs[0].parts]
    return "\n".join(lines)


def generate(path: Path, commits: int) -> Path:
    """Create a repository whose commits are spread over five years."""
    history = many(commits, authors=commits // 100, paths=commits // 20, seconds_apart=YEARS * 365 * DAY // commits)
    return build(path, history)


def _run(work: Callable[[Path], dict[str, float]], repository: Path) -> Run:
    before, started = _children_cpu(), time.monotonic()
    parts = work(repository)
    return Run(time.monotonic() - started, _children_cpu() - before, parts)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run_commands(repository: Path) -> dict[str, float]:
    """Run the commands of docs/analysis.md, that of hotspots for the last year only, and time each of them."""
    last = int(git(repository, *_TRUSTED, "log", "-1", "--format=%ct", "HEAD"))
    commands = (
        "rev-list --count HEAD",
        "shortlog -sne HEAD",
        "log --format=%cI HEAD",
        "log --format=%ct HEAD",
        "log --format=%aN<%aE> HEAD",
        f"log --no-merges --no-renames --name-only --since={last - 365 * DAY} HEAD",
        "tag",
        "for-each-ref --format=%(refname)%(creatordate) refs/tags",
        "ls-tree -r HEAD",
    )
    seconds = {}
    for command in commands:
        started = time.monotonic()
        subprocess.run(
            ["git", *_TRUSTED, *command.split()], cwd=repository, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True
        )
        seconds[f"git {command}"] = time.monotonic() - started
    return seconds


def _analyse(repository: Path) -> dict[str, float]:
    """Analyse the repository, and time each step. The first one is the start of the process."""
    seconds: dict[str, float] = {}
    step, since = "Starting", time.monotonic()
    outcome = {}
    with analysis_process(repository, NOW) as (_, output):
        for line in output:
            outcome = json.loads(line)
            now = time.monotonic()
            seconds[step] = seconds.get(step, 0) + now - since
            step, since = outcome.get("step", step), now
    if "report" not in outcome:
        raise RuntimeError(f"{repository} was not analysed: {outcome}")
    return seconds


@click.command()
@click.argument("repository", required=False, type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.option("--rounds", default=ROUNDS, show_default=True)
def main(repository: Path | None, rounds: int) -> None:
    """Measure the analysis of a local REPOSITORY, or of a generated one with 80,000 commits."""
    with TemporaryDirectory(prefix="reporadar-") as folder:
        commands, analyses = measure(repository or generate(Path(folder, "repository"), COMMITS), rounds)
    click.echo(f"{machine.describe()}. Medians of {rounds} rounds.\n")
    click.echo(table(commands, analyses))
    limit = f"{MAX_RATIO} times the commands plus {START_SECONDS} s"
    click.echo(f"\nThe analysis takes {'at most' if is_within_limit(commands, analyses) else 'MORE THAN'} {limit}.")


if __name__ == "__main__":
    main()
