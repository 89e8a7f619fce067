"""`make bench`: the costs of RepoRadar and of its peers, as Markdown tables."""

import click

from bench import machine, messages, requests, serving, sockets, stop, storm


@click.command()
def main() -> None:
    """Run all benchmarks. They take about ten minutes on an otherwise idle machine."""
    click.echo(f"{machine.describe()}. Medians of {requests.ROUNDS} rounds, {requests.CONNECTIONS} connections.\n")
    click.echo(requests.table(requests.measure()) + "\n")
    click.echo(serving.table(serving.measure()) + "\n")
    click.echo(messages.table(messages.measure()) + "\n")
    click.echo(sockets.table(sockets.measure()) + "\n")
    click.echo(storm.table(storm.measure()) + "\n")
    click.echo(stop.table(stop.measure()))


if __name__ == "__main__":
    main()
