from __future__ import annotations

import socket
import ssl
from types import SimpleNamespace

import pytest

from app.operations.doctor.findings import describe_error, fail, graded, ok


def test_finding_is_one_line_with_the_advice_below() -> None:
    assert str(ok("redis answers")) == "ok   redis answers"
    assert str(fail("redis does not answer", "Start it")) == "fail redis does not answer\n       Start it"


@pytest.mark.parametrize(("value", "status"), [(1.0, "ok"), (1.1, "warn"), (10.0, "warn"), (10.1, "fail")])
def test_number_is_graded_above_its_limits(value: float, status: str) -> None:
    assert graded(value, warn_above=1, fail_above=10, text="", advice="").status == status


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (chained(ValueError("a"), ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
        (ValueError(SimpleNamespace(), TimeoutError()), "the request timed out"),
        (ValueError(socket.gaierror(-2, "Name or service not known")), "the host name is unknown"),
        (ValueError("first line\nsecond"), "first line"),
        (ValueError(), "ValueError"),
    ],
)
def test_error_is_described_by_its_root_cause(error: Exception, words: str) -> None:
    assert describe_error(error) == words


def test_untrusted_certificate_is_described() -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_message = "self-signed certificate"
    assert describe_error(chained(ConnectionError("x"), refused)) == "the certificate is not trusted: self-signed certificate"
