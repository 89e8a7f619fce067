"""Turns traces on in a process: an instance, or a worker."""

from collections.abc import Callable

from flask import Flask

from app.core import instance, spans
from app.database.engine import Database
from app.server.lifecycle import Lifecycle
from app.telemetry.redis_commands import trace_commands
from app.telemetry.requests import trace_requests
from app.telemetry.sql import trace_database
from app.telemetry.traces import Traces


def trace_instance(endpoint: str, database: Database, lifecycle: Lifecycle) -> Callable[[Flask], None]:
    """Trace the SQL, Redis commands, jobs and messages of an instance. Spans are sent once the instance starts.

    Return a function that also traces the requests of an application whose middleware is complete.
    """
    traces = _create(endpoint, database)
    lifecycle.add("traces", background=traces.start, close=traces.flush, after_report=traces.stop)
    return lambda app: trace_requests(app, traces)


def trace_worker(endpoint: str, database: Database) -> Traces:
    """Trace the jobs of this process. When it stops, it calls `flush` of the result, and `stop` as its last step."""
    traces = _create(endpoint, database)
    traces.start()
    return traces


def _create(endpoint: str, database: Database) -> Traces:
    traces = Traces(endpoint, instance.current().instance_id)
    spans.tracer = traces
    trace_database(database, traces)
    trace_commands(traces)
    return traces
