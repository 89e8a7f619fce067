"""`python -m bench.scores FOLDER`: the scores of many repositories, and how far apart they are, as a Markdown table."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from app.analysis import clone, report
from app.analysis.address import parse
from app.analysis.failures import AnalysisError
from app.analysis.git import GitError
from app.analysis.scores import SCORE_NAMES

NAMES = (*SCORE_NAMES, "overall")
MIN_RANGE = 20  # points between the first and the third quarter of the repositories
MAX_BYTES = 4 * 1024**3

Reports = dict[str, dict[str, Any]]


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--as-of", multiple=True, help="A time (UTC), or NAME=TIME for a repository whose snapshot ends at another one.")
@click.option("--only", multiple=True, help="The name of a repository. May be repeated.")
def main(folder: Path, as_of: Sequence[str], only: Sequence[str]) -> None:
    """Analyse the bare repositories FOLDER/NAME or FOLDER/NAME/repo. Fail if a score does not tell them apart."""
    times = {name: datetime.fromisoformat(time).replace(tzinfo=UTC) for name, _, time in (text.rpartition("=") for text in as_of)}
    reports = dict(read_all(folder, times, only))
    ranges = {name: interquartile_range(reports, name) for name in NAMES}
    click.echo(table(reports, ranges))
    if close := [name for name, value in ranges.items() if value < MIN_RANGE]:
        raise click.ClickException(f"The repositories are less than {MIN_RANGE} points apart in {', '.join(close)}.")


def read_all(folder: Path, times: dict[str, datetime], only: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.iterdir()):
        repository = path / "repo" if (path / "repo").is_dir() else path
        if (repository / "HEAD").is_file() and (not only or path.name in only):
            try:
                yield path.name, read(repository, times.get(path.name, times.get("", datetime.now(UTC))))
            except (AnalysisError, GitError) as error:
                click.echo(f"left out {path.name}: {error}", err=True)


def read(path: Path, as_of: datetime) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        repository = clone.fetch(parse(str(path), [path]), Path(folder), [], MAX_BYTES, lambda *_: None)
        return report.build(repository, as_of, lambda *_: None)


def interquartile_range(reports: Reports, name: str) -> float:
    values: list[int | None] = [found["scores"][name]["score"] for found in reports.values()]
    lower, _, upper = statistics.quantiles([value for value in values if value is not None], n=4, method="inclusive")
    return upper - lower


def table(reports: Reports, ranges: dict[str, float]) -> str:
    rows = [["repository", *NAMES, "headline"], ["---", *["--:"] * len(NAMES), "---"]]
    for name, found in sorted(reports.items(), key=lambda item: -(item[1]["scores"]["overall"]["score"] or 0)):
        rows.append([name, *(str(found["scores"][score]["score"]) for score in NAMES), found["verdict"]["headline"]])
    rows.append(["interquartile range", *(f"{value:.0f}" for value in ranges.values()), ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
