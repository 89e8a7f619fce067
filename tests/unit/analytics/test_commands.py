"""`flask events dead-letters` on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskCliRunner

from app import create_app
from app.analytics.intake import RedisIntake
from app.analytics.partitions import SINGLE
from app.analytics.person import AnalyticsAccount, ConsentState
from app.core.config import Config
from app.redis.multiplexed import MultiplexedRedis
from tests.unit.analytics.conftest import event


@pytest.fixture
def runner(fleet_config: Config) -> Iterator[FlaskCliRunner]:
    app = create_app(fleet_config)
    yield app.test_cli_runner()
    lifecycle = app.extensions["lifecycle"]
    lifecycle.stop(lifecycle.drain(), 1)


@pytest.fixture
def dead_letter(redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> None:
    """A dead-lettered event `page.viewed`, and an entry that is not an event."""
    intake = RedisIntake(redis_client, multiplexed)
    intake.accept(AnalyticsAccount(1), ConsentState("a1", version=0, is_granted=True), [event("page.viewed")])
    entries: Any = redis_client.xrange(SINGLE.stream)
    ((_, fields),) = entries
    redis_client.delete(SINGLE.stream)
    redis_client.xadd(SINGLE.dead_letters, {**fields, b"reason": b"value too long\n"})
    redis_client.xadd(SINGLE.dead_letters, {"what": "ever"})


def run(runner: FlaskCliRunner, *options: str) -> list[str]:
    result = runner.invoke(args=["events", "dead-letters", *options])
    assert result.exit_code == 0, result.output
    return [line.partition("Z  ")[2] or line for line in result.output.splitlines()]


@pytest.mark.usefixtures("dead_letter")
def test_dead_letters_are_listed(runner: FlaskCliRunner, redis_client: redis.Redis) -> None:
    assert run(runner) == ["page.viewed  value too long\\n", "(not an event)  unknown reason", "2 dead letters"]
    assert (redis_client.xlen(SINGLE.stream), redis_client.xlen(SINGLE.dead_letters)) == (0, 2)


@pytest.mark.usefixtures("dead_letter")
def test_replay_returns_events_to_the_stream(runner: FlaskCliRunner, redis_client: redis.Redis) -> None:
    assert run(runner, "--replay")[-1] == (
        "2 dead letters, 1 put back into the stream, 1 not put back: not an event that a worker could store"
    )
    entries: Any = redis_client.xrange(SINGLE.stream)
    ((_, fields),) = entries
    assert set(fields) == {b"person", b"version", b"event"}
    assert redis_client.xlen(SINGLE.dead_letters) == 1
    assert run(runner, "--replay")[-1] == (
        "1 dead letters, 0 put back into the stream, 1 not put back: not an event that a worker could store"
    )


def test_embedded_mode_has_no_dead_letters(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["events", "dead-letters"])
    assert result.exit_code == 1
    assert "embedded" in result.output
