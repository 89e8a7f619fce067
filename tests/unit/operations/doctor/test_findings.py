from __future__ import annotations

import socket
import ssl
from types import SimpleNamespace

import pytest

from app.operations.doctor.findings import fail, graded, in_words, ok


def test_a_finding_is_a_line_and_what_to_do_below_it() -> None:
    assert str(ok("redis answers")) == "ok   redis answers"
    assert str(fail("redis does not answer", "Start it")) == "fail redis does not answer\n       Start it"


@pytest.mark.parametrize(("value", "status"), [(1.0, "ok"), (1.1, "warn"), (10.0, "warn"), (10.1, "fail")])
def test_a_number_is_graded_above_its_limits(value: float, status: str) -> None:
    assert graded(value, warn_above=1, fail_above=10, text="", advice="").status == status


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (chained(ValueError("a"), ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
        (ValueError(SimpleNamespace(), TimeoutError()), "no answer in time"),
        (ValueError(socket.gaierror(-2, "Name or service not known")), "its name is not known"),
        (ValueError("first line\nsecond"), "first line"),
        (ValueError(), "ValueError"),
    ],
)
def test_errors_in_words(error: Exception, words: str) -> None:
    assert in_words(error) == words


def test_a_certificate_in_words() -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_message = "self-signed certificate"
    assert in_words(chained(ConnectionError("x"), refused)) == "its certificate is not trusted: self-signed certificate"
