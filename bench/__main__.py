"""`make bench`: what RepoRadar costs, beside its peers, as Markdown."""

from __future__ import annotations

import click

from bench import machine, messages, requests, serving, sockets, stop


@click.command()
def main() -> None:
    """Takes about ten minutes, in which the machine should have nothing else to do."""
    click.echo(f"{machine.describe()}. Medians of {requests.ROUNDS} rounds, {requests.CONNECTIONS} connections.\n")
    click.echo(requests.table(requests.measure()) + "\n")
    click.echo(serving.table(serving.measure()) + "\n")
    click.echo(messages.table(messages.measure()) + "\n")
    click.echo(sockets.table(sockets.measure()) + "\n")
    click.echo(stop.table(stop.measure()))


if __name__ == "__main__":
    main()
