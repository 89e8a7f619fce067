"""`make bench`: what RepoRadar costs, beside its peers, as Markdown."""

from __future__ import annotations

import click

from bench import machine, requests, sockets


@click.command()
def main() -> None:
    """Takes some minutes, in which the machine should have nothing else to do."""
    click.echo(f"{machine.describe()}. Medians of {requests.ROUNDS} rounds, {requests.CONNECTIONS} connections.\n")
    click.echo(requests.table(requests.measure()) + "\n")
    click.echo(sockets.table(sockets.measure()))


if __name__ == "__main__":
    main()
