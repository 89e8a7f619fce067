"""`flask events`: analytics events that workers could not store."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import redis
from flask import current_app
from flask.cli import with_appcontext

from app.analytics.event_stream import decode_entry
from app.analytics.partitions import Partition, partitions_of
from app.core import instance
from app.core.config import Config
from app.core.logs import escape_control_characters
from app.core.timestamps import iso
from app.redis.client import connect


@click.group()
def events() -> None:
    """Inspect analytics events."""


@events.command("dead-letters")
@click.option("--replay", is_flag=True, help="Put the events back into the stream, so that a worker tries to store them again.")
@with_appcontext
def dead_letters(*, replay: bool) -> None:
    """List the dead-lettered events: time, name of the event and reason."""
    config: Config = current_app.config["REPORADAR"]
    if not config.use_redis_sessions:
        raise click.ClickException("there are no dead letters in embedded mode: an embedded instance stores events at once")
    client = connect(config, instance.current().instance_id)
    try:
        for line in list_dead_letters(client, replay=replay):
            click.echo(escape_control_characters(line))
    except redis.RedisError as error:
        raise click.ClickException(f"Redis does not answer: {error}") from None
    finally:
        client.close()


def list_dead_letters(client: redis.Redis, *, replay: bool) -> Iterator[str]:
    """Yield a line for each dead letter of all partitions, then their number. With `replay`, put the events back."""
    entries = [(partition, *entry) for partition in partitions_of(client) for entry in _read(client, partition)]
    replayed = not_events = 0
    for partition, entry_id, fields in entries:
        reason = fields.pop(b"reason", b"unknown reason").decode(errors="replace")
        time = iso(datetime.fromtimestamp(int(entry_id.split(b"-")[0]) / 1000, UTC))
        try:
            name = decode_entry(fields).event.name
        except ValueError:
            not_events += 1
            yield f"{time}  (not an event)  {reason}"
            continue
        if replay:
            _replay(client, partition, entry_id, fields)
            replayed += 1
        yield f"{time}  {name}  {reason}"
    summary = f"{len(entries)} dead letters"
    if replay:
        summary += f", {replayed} put back into the stream"
    if replay and not_events:
        summary += f", {not_events} not put back: not an event that a worker could store"
    yield summary


def _read(client: redis.Redis, partition: Partition) -> list[tuple[bytes, dict[bytes, bytes]]]:
    entries: Any = client.xrange(partition.dead_letters)
    return list(entries)


def _replay(client: redis.Redis, partition: Partition, entry_id: bytes, fields: dict[Any, Any]) -> None:
    """Move the event in one transaction. Storing is idempotent, so two concurrent replays do no harm."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.xadd(partition.stream, fields)
        pipeline.xdel(partition.dead_letters, entry_id)
        pipeline.execute()
