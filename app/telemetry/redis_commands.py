"""Spans of Redis commands: their names, without keys and values.

OpenTelemetry's own instrumentation of redis-py sees neither the shared connection nor published messages.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import redis
from redis.client import Pipeline

from app.realtime.publisher import RedisPublisher
from app.redis.multiplexed import MultiplexedCluster, MultiplexedRedis
from app.telemetry.traces import Traces, is_recording

Describe = Callable[..., str]  # takes the arguments of a method and returns the names of its commands


def trace_commands(traces: Traces) -> None:
    """Trace all clients of this process. The methods below are those that wait for Redis, once for each command."""
    _trace(traces, redis.Redis, "execute_command", lambda _, *command, **__: _name(command))
    _trace(traces, Pipeline, "execute", lambda pipeline, *_, **__: _names(command for command, _ in pipeline.command_stack))
    _trace(traces, MultiplexedRedis, "execute", lambda _, *command: _name(command))
    _trace(traces, MultiplexedRedis, "execute_all", lambda _, *commands: _names(commands))
    _trace(traces, MultiplexedCluster, "execute_all", lambda _, *commands: _names(commands))
    _trace(traces, RedisPublisher, "_publish_to", lambda *_: "PUBLISH")


def _trace(traces: Traces, client_class: type, method: str, describe: Describe) -> None:
    run = getattr(client_class, method)

    @functools.wraps(run)
    def traced(*args: Any, **kwargs: Any) -> Any:
        if not is_recording():
            return run(*args, **kwargs)
        name = describe(*args, **kwargs)
        with traces.child(name, {"db.system.name": "redis", "db.operation.name": name}):
            return run(*args, **kwargs)

    setattr(client_class, method, traced)


def _name(command: Any) -> str:
    return str(command[0]).upper()


def _names(commands: Iterable[Any]) -> str:
    """Return the different names in their order. A pipeline may repeat one command a thousand times."""
    return " ".join(dict.fromkeys(map(_name, commands))) or "PIPELINE"
