"""Spans of SQL: one for each transaction, which includes the wait for a connection and the commit, and one for each statement."""

import re
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import SpanKind
from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext

from app.database.engine import Database
from app.telemetry.traces import Traces, is_recording, record_error

MAX_STATEMENT_LENGTH = 2000
_NUMBER = re.compile(r"\b\d+\b")
_SPAN = "span"  # the key of the current statement's span in the information about a database connection


def trace_database(database: Database, traces: Traces) -> None:
    run_within = database.run_within
    system: str = database.engine.dialect.name

    def traced(seconds: float, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not is_recording():
            return run_within(seconds, work, *args, **kwargs)
        with traces.child("transaction", {"db.system.name": system}, SpanKind.INTERNAL):
            return run_within(seconds, work, *args, **kwargs)

    def before(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if is_recording():
            operation = statement.partition(" ")[0].upper()
            attributes = {"db.system.name": system, "db.query.text": _without_values(statement)}
            connection.info[_SPAN] = traces.start_child(operation, attributes)

    database.run_within = traced  # type: ignore[method-assign]
    event.listen(database.engine, "before_cursor_execute", before, insert=True)  # before the limits of a pooler are added
    event.listen(database.engine, "after_cursor_execute", _after)
    event.listen(database.engine, "handle_error", _on_error)


def _without_values(statement: str) -> str:
    """Return the beginning of a statement. Values are parameters, except IDs: some statements contain a list of them."""
    return _NUMBER.sub("?", statement[:MAX_STATEMENT_LENGTH])


def _after(connection: Connection, *_: Any) -> None:
    if span := connection.info.pop(_SPAN, None):
        span.end()


def _on_error(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is not None and not connection.invalidated and (span := connection.info.pop(_SPAN, None)):
        record_error(span, context.original_exception)
        span.end()
