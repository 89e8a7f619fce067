"""The log format of the application, gunicorn and the job worker: text or JSON, one line per record.

User input can't forge a line: control characters are escaped, and each line of a traceback has a prefix. The secret parts of
addresses are left out, whoever logs them.
"""

import json
import logging
import math
import re
import sys
import time
import traceback
from contextvars import ContextVar

from gunicorn import glogging

from app.core import descriptors, instance
from app.core.timestamps import iso

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)  # 32 hexadecimal digits, if traces are on

LOG_AGAIN_SECONDS = 60.0  # between two records about the same error, which is retried more often

_CONTROL = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROL}
_SECRET_ADDRESS = re.compile(r"/(feeds|shared)/[A-Za-z0-9_-]{8,}")  # whoever knows such an address can read what is there


def without_secrets(text: str) -> str:
    return _SECRET_ADDRESS.sub(r"/\1/***", text)


def escape_control_characters(text: str) -> str:
    return text.translate(_ESCAPES)


class TextFormatter(logging.Formatter):
    """Lines such as `[2025-10-03T20:00:00.000Z] [INFO] [instance-1] message request_id=... trace_id=...`.

    A traceback follows on lines that begin with `    | `.
    """

    def format(self, record: logging.LogRecord) -> str:
        instance_id = instance.current().instance_id
        message = escape_control_characters(without_secrets(record.getMessage()))
        line = f"[{iso(record.created)}] [{record.levelname}] [{instance_id}] {message}"
        if request := request_id.get():
            line += f" request_id={request}"
        if trace := trace_id.get():
            line += f" trace_id={trace}"
        if record.exc_info:
            traceback = without_secrets(self.formatException(record.exc_info))
            line += "".join(f"\n    | {escape_control_characters(part)}" for part in traceback.splitlines())
        return line


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": iso(record.created),
            "level": record.levelname,
            "instance_id": instance.current().instance_id,
            "request_id": request_id.get(),
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        if trace := trace_id.get():
            entry["trace_id"] = trace
        if record.exc_info:
            entry["exception"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(entry)


def configure(log_format: str, log_level: str) -> None:
    """Send every record of this process to stderr in the given format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(_is_no_repeated_shortage)
    logging.root.handlers = [handler]
    logging.root.setLevel(log_level)
    logging.captureWarnings(True)
    logging.getLogger("audit").setLevel(logging.INFO)  # independent of LOG_LEVEL
    logging.getLogger("engineio.server").addFilter(_is_relevant)
    for name in ("alembic", "dramatiq"):  # their INFO records do not help an operator
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
    # These libraries give a logger without a level a handler of its own, which would write each record a second time.
    for name in ("engineio.client", "engineio.server", "socketio.client", "socketio.server"):
        logging.getLogger(name).setLevel(max(logging.ERROR, logging.root.level))


def _is_no_repeated_shortage(record: logging.LogRecord) -> bool:
    """Drop the errors that follow from a shortage of file descriptors, which is logged once. They come from many parts."""
    if record.levelno < logging.WARNING or record.name == descriptors.__name__:
        return True
    try:
        text = record.getMessage()
    except Exception:  # the values do not fit the message: an error here would reach the code that logs, the handler reports it
        return True
    if record.exc_info:
        text += "".join(traceback.format_exception(*record.exc_info))
    return descriptors.ERROR_TEXT not in text or not descriptors.shortage.look()


def _is_relevant(record: logging.LogRecord) -> bool:
    """Drop the error that Engine.IO logs if a polling client sends its ID from before a restart; the client then reconnects."""
    return not str(record.msg).startswith("Invalid session")


class ThrottledLog:
    """Writes at most one line per second for each reason, so that clients can't fill the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._written_at: dict[str, float] = {}

    def info(self, reason: str, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._written_at.get(reason, -math.inf) >= 1:
            self._written_at[reason] = now
            self._log.info(message, *values)


class RepetitionFilter:
    """Accepts an error once, and again after LOG_AGAIN_SECONDS or with a different text: a loop retries it every second."""

    def __init__(self) -> None:
        self._text, self._accepted_at = "", -math.inf

    def accepts(self, text: str) -> bool:
        now = time.monotonic()
        if text == self._text and now - self._accepted_at <= LOG_AGAIN_SECONDS:
            return False
        self._text, self._accepted_at = text, now
        return True

    def reset(self) -> None:
        """Accept the next error: it is the first one after a success."""
        self._text = ""


class GunicornLogger(glogging.Logger):  # type: ignore[misc] # gunicorn has no type hints
    """Sends gunicorn's records to the root logger. Requests are logged by `app.http.tracing`."""

    def setup(self, cfg: object) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.handlers = []
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)
