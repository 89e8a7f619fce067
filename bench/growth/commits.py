"""Repositories with long histories, made by `git fast-import`, analysed by the process that analyses all others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import machine
from bench.growth.series import EACH, Line, Panel, Series
from harness.repositories import DAY, NOW, build, many
from harness.servers import ROOT, base_environment

SIZES = (1_000, 10_000, 30_000, 100_000)
ROUNDS = 2
YEARS = 5  # of each history, so that the last year of it grows with the whole
COMMITS_OF_AN_AUTHOR, COMMITS_OF_A_PATH = 100, 20
MAX_BYTES = 2 * 1024**3


def measure() -> Series:
    cpu, memory = Line("processor", EACH), Line("largest process", EACH)
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    with TemporaryDirectory(prefix="reporadar-") as name:
        repositories = {size: _repository(Path(name), size) for size in SIZES}
        for _ in range(ROUNDS):
            for size, repository in repositories.items():
                seconds, megabytes = _analyse(repository)
                cpu.add(size, seconds)
                memory.add(size, megabytes)
    return Series(
        "commits of a repository",
        [Panel("analysis", "s of CPU, git included", [cpu]), Panel("peak of memory", "MB", [memory])],
    )


def _repository(folder: Path, commits: int) -> Path:
    history = many(
        commits,
        authors=max(1, commits // COMMITS_OF_AN_AUTHOR),
        paths=max(1, commits // COMMITS_OF_A_PATH),
        seconds_apart=YEARS * 365 * DAY // commits,
    )
    return build(folder / str(commits), history)


def _analyse(repository: Path) -> tuple[float, float]:
    """Seconds of CPU, and megabytes of the largest of its processes."""
    request = {
        "url": str(repository),
        "as_of": NOW.isoformat(),
        "roots": [str(repository.parent)],
        "allowed_networks": [],
        "max_bytes": MAX_BYTES,
    }
    command, pipe = [sys.executable, "-m", "app.analysis"], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=base_environment(), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()  # and left open: its end would be that of the analysis
        outcome = json.loads(list(process.stdout)[-1])
        _, process.returncode, used = os.wait4(process.pid, 0)
    if "report" not in outcome:
        raise RuntimeError(f"{repository.name} commits were not analysed: {outcome}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3
