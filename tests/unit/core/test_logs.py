from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import socketio
from gunicorn.config import Config as GunicornConfig

from app.core import logs
from tests.unit.conftest import set_clock

MOMENT = datetime(2025, 10, 3, 20, 0, 0, tzinfo=UTC).timestamp()
FORGED = "[2025-10-03T20:00:00.000Z] [INFO] [instance-1] forged"
# Characters that some programs treat as the end of a line, and ESC and CSI, which control terminals.
DANGEROUS = ["\n", "\r", "\r\n", "\x00", "\x0b", "\x0c", "\x1b", "\x1c", "\x7f", "\x85", "\x9b", "\u2028", "\u2029"]
IDS = [ascii(text) for text in DANGEROUS]


@pytest.fixture(autouse=True)
def no_current_request() -> Iterator[None]:
    token = logs.request_id.set(None)
    yield
    logs.request_id.reset(token)


def record(message: str, *arguments: object, error: Exception | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("app.part", logging.INFO, __file__, 1, message, arguments, exc_info)
    made.created = MOMENT
    return made


def raised(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def text_of(made: logging.LogRecord) -> str:
    return logs.TextFormatter().format(made)


def json_of(made: logging.LogRecord) -> dict[str, Any]:
    line = logs.JsonFormatter().format(made)
    assert len(line.splitlines()) == 1
    entry: dict[str, Any] = json.loads(line)
    return entry


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger; its configuration is restored afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in ("alembic", "dramatiq", "audit")}
    yield root
    root.handlers, root.level = before
    logging.captureWarnings(False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_text_has_the_format_of_the_scaling_guide() -> None:
    line = text_of(record("Server listening on port %s", 3000))
    assert line == "[2025-10-03T20:00:00.000Z] [INFO] [instance-1] Server listening on port 3000"


def test_json_contains_time_level_instance_request_logger_and_message() -> None:
    assert json_of(record("hello %s", "world")) == {
        "time": "2025-10-03T20:00:00.000Z",
        "level": "INFO",
        "instance_id": "instance-1",
        "request_id": None,
        "logger": "app.part",
        "message": "hello world",
    }


def test_json_contains_the_request_id() -> None:
    logs.request_id.set("request-7")
    assert json_of(record("hello"))["request_id"] == "request-7"


def test_text_ends_with_the_request_id() -> None:
    logs.request_id.set("request-7")
    assert text_of(record("hello")) == "[2025-10-03T20:00:00.000Z] [INFO] [instance-1] hello request_id=request-7"


def test_lines_contain_the_trace_id_if_there_is_one() -> None:
    assert "trace_id" not in json_of(record("hello"))
    token = logs.trace_id.set("5b8e")
    try:
        assert json_of(record("hello"))["trace_id"] == "5b8e"
        assert text_of(record("hello")).endswith(" hello trace_id=5b8e")
    finally:
        logs.trace_id.reset(token)


@pytest.mark.parametrize("separator", DANGEROUS, ids=IDS)
def test_message_cannot_forge_a_text_line(separator: str) -> None:
    line = text_of(record("user %s", f"mallory{separator}{FORGED}"))
    assert len(line.splitlines()) == 1
    assert separator not in line
    assert "mallory\\" in line


@pytest.mark.parametrize("separator", DANGEROUS, ids=IDS)
def test_message_cannot_forge_a_json_line(separator: str) -> None:
    message = f"mallory{separator}{FORGED}"
    assert json_of(record("%s", message))["message"] == message


@pytest.mark.parametrize("separator", DANGEROUS, ids=IDS)
def test_exception_cannot_forge_a_text_line(separator: str) -> None:
    first, *others = text_of(record("failed", error=raised(f"mallory{separator}{FORGED}"))).split("\n")
    assert first == "[2025-10-03T20:00:00.000Z] [INFO] [instance-1] failed"
    assert len(others) >= 4
    for line in others:
        assert line.startswith("    | ")
        assert len(line.splitlines()) == 1
        assert separator not in line


def test_json_contains_the_traceback_in_one_line() -> None:
    entry = json_of(record("failed", error=raised(f"mallory\n{FORGED}")))
    assert entry["message"] == "failed"
    assert entry["exception"].startswith("Traceback (most recent call last):\n")
    assert entry["exception"].endswith(f"ValueError: mallory\n{FORGED}")


def test_non_ascii_text_is_not_escaped() -> None:
    assert text_of(record("Grüße, 世界")).endswith("] Grüße, 世界")


@pytest.mark.parametrize(("log_format", "beginning"), [("text", "["), ("json", "{")])
def test_configured_records_go_to_stderr_once(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], log_format: str, beginning: str
) -> None:
    for _ in range(2):
        logs.configure(log_format, "WARNING")
    logging.getLogger("app.part").warning("heard")
    logging.getLogger("app.part").info("not heard")
    told, lines = capsys.readouterr()
    assert told == ""
    assert len(lines.splitlines()) == 1
    assert lines.startswith(beginning)
    assert "heard" in lines


def test_info_records_of_libraries_are_dropped(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "INFO")
    logging.getLogger("alembic.runtime.migration").info("Context impl")
    logging.getLogger("alembic.runtime.migration").warning("something is wrong")
    assert "Context impl" not in (lines := capsys.readouterr().err)
    assert "something is wrong" in lines


def test_errors_of_socket_libraries_are_written_once(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["engineio.client", "engineio.server", "socketio.client", "socketio.server"]
    for name in names:  # as in a new process
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    logs.configure("json", "INFO")
    socketio.Server(async_mode="threading")
    socketio.Client(handle_sigint=False)
    for name in names:
        logging.getLogger(name).error("invalid")
        logging.getLogger(name).warning("not asked for")
    assert [json.loads(line)["logger"] for line in capsys.readouterr().err.splitlines()] == names


def test_audit_log_is_independent_of_the_level(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "ERROR")
    logging.getLogger("audit").info("login.failed")
    logging.getLogger("app").warning("not asked for")
    assert [line.partition("] [INFO] ")[2] for line in capsys.readouterr().err.splitlines()] == ["[instance-1] login.failed"]


def test_gunicorn_uses_the_same_handler(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "INFO")
    gunicorn = logs.GunicornLogger(GunicornConfig())
    gunicorn.info("Booting worker with pid: %s", 1)
    gunicorn.debug("not asked for")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] [INFO] ")[2] for line in lines] == ["[instance-1] Booting worker with pid: 1"]
    assert all(handler.stream is sys.stderr for handler in root.handlers if isinstance(handler, logging.StreamHandler))


def test_throttled_log_writes_one_line_per_second_and_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = set_clock(monkeypatch, logs)
    caplog.set_level("INFO")
    throttled = logs.ThrottledLog(logging.getLogger("throttled"))
    for _ in range(3):
        for reason in ("origin", "session"):
            throttled.info(reason, "refused: %s at %d", reason, clock.now)
        clock.now += 0.5
    first, later = 1_760_000_000, 1_760_000_001
    expected = [f"refused: {reason} at {second}" for second in (first, later) for reason in ("origin", "session")]
    assert caplog.messages == expected


def test_repeated_error_is_accepted_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = set_clock(monkeypatch, logs)
    repeated = logs.RepetitionFilter()
    assert [repeated.accepts(text) for text in ("a", "a", "b", "a")] == [True, False, True, True]
    clock.now += logs.LOG_AGAIN_SECONDS + 1
    assert [repeated.accepts("a"), repeated.accepts("a")] == [True, False]
    repeated.reset()
    assert repeated.accepts("a")
