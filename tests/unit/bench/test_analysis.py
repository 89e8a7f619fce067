"""An analysis takes at most 1.5 times the CPU time of the git commands that define its numbers, plus 1.5 s."""

from pathlib import Path

import pytest

from bench import analysis
from bench.analysis import Run
from harness.scale import count


def test_analysis_takes_little_longer_than_git(tmp_path: Path) -> None:
    repository = analysis.generate(tmp_path / "repository", count(3_000, 80_000))
    commands, analyses = analysis.measure(repository, rounds=1)
    text = analysis.table(commands, analyses)
    assert analysis.is_within_limit(commands, analyses), text
    assert "| `git rev-list --count HEAD` |" in text
    assert "| `Reading the history` |" in text


@pytest.mark.parametrize(("cpu", "expected"), [(16.5, True), (16.6, False)])
def test_limit(cpu: float, expected: bool) -> None:
    assert analysis.is_within_limit([Run(1, 10, {})], [Run(1, cpu, {})]) is expected
