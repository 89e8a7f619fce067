"""The comparison of scores prints a table, and fails if the repositories are too much alike."""

from pathlib import Path

from click.testing import CliRunner

from bench.scores import main
from harness.repositories import NOW, Commit, ago, build


def test_table_of_scores(tmp_path: Path) -> None:
    for number in range(3):
        build(tmp_path / f"r{number}.git", [Commit(ago(10 * number + 1), files={b"README.md": b"1\n"})])
    (tmp_path / "other").mkdir()
    ran = CliRunner().invoke(
        main, [str(tmp_path), "--as-of", NOW.replace(tzinfo=None).isoformat(), "--as-of", "r1.git=2031-01-01"]
    )
    assert ran.exit_code == 1
    assert "The repositories are less than 20 points apart in" in ran.output
    rows = [line.split(" | ") for line in ran.output.splitlines() if line.startswith("| r")]
    assert [row[0] for row in rows] == ["| repository", "| r0.git", "| r2.git", "| r1.git"]
    assert rows[3][-1] == "No commit for five years, so nobody is likely to fix faults. |"
