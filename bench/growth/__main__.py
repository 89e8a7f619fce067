"""The growth of costs: Markdown tables on standard output, plots in docs/growth.

.venv/bin/python -m bench.growth [SERIES ...]
"""

import click

from bench import machine
from bench.growth import commits, events, heartbeats, instances, notifications, sessions, sockets
from bench.growth.plot import svg
from bench.growth.series import table
from harness.servers import ROOT

FOLDER = ROOT / "docs" / "growth"
MEASURED = {
    module.__name__.rpartition(".")[2]: module
    for module in (sessions, sockets, instances, heartbeats, notifications, commits, events)
}


@click.command(help=f"All series take some minutes. Available series: {', '.join(MEASURED)}.")
@click.argument("series", nargs=-1, type=click.Choice(list(MEASURED)))
def main(series: tuple[str, ...]) -> None:
    click.echo(f"{machine.describe()}. Medians.\n")
    too_fast = []
    for name in series or MEASURED:
        measured = MEASURED[name].measure()
        click.echo(table(measured) + "\n")
        too_fast += measured.too_fast
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.svg").write_text(svg(measured))
    click.echo("\n".join(f"GROWS FASTER THAN ITS WORK: {what}" for what in too_fast) or "No cost grows faster than its work.")


if __name__ == "__main__":
    main()
