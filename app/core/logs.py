"""One log shape for the application, gunicorn and the job worker: text as in the scaling guide, or JSON; one line a record.

Text that came from a user can't forge a line: control characters are written as escapes, and the lines of a traceback are
marked as such.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from gunicorn import glogging

from app.core import instance

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_CONTROL = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROL}


def one_line(text: str) -> str:
    return text.translate(_ESCAPES)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`[2025-10-03T20:00:00.000Z] [INFO] [instance-1] message`, and the id of the request that it belongs to.

    A traceback follows on lines that begin with `    | `.
    """

    def format(self, record: logging.LogRecord) -> str:
        instance_id = instance.current().instance_id
        line = f"[{_timestamp(record)}] [{record.levelname}] [{instance_id}] {one_line(record.getMessage())}"
        if request := request_id.get():
            line += f" request_id={request}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    | {one_line(part)}" for part in trace.splitlines())
        return line


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _timestamp(record),
            "level": record.levelname,
            "instance_id": instance.current().instance_id,
            "request_id": request_id.get(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(log_format: str, log_level: str) -> None:
    """Sends every record of this process to stderr in the one shape."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.root.handlers = [handler]
    logging.root.setLevel(log_level)
    logging.captureWarnings(True)
    logging.getLogger("audit").setLevel(logging.INFO)  # whatever LOG_LEVEL says
    logging.getLogger("engineio.server").addFilter(_is_news)
    for name in ("alembic", "dramatiq"):  # their news at INFO is of no use to an operator
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))


def _is_news(record: logging.LogRecord) -> bool:
    """A polling client that comes with the id it had before a restart is told so, and begins anew: no error of anybody's."""
    return not str(record.msg).startswith("Invalid session")


class GunicornLogger(glogging.Logger):  # type: ignore[misc] # gunicorn has no type hints
    """gunicorn's own lines go through the root logger; requests are logged by `app.http.tracing`, with their id."""

    def setup(self, cfg: object) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.handlers = []
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)
