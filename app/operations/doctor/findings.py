"""Findings: one line each, and what to do about it."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    status: str
    text: str
    advice: str = ""

    @property
    def name(self) -> str:
        """Return what was checked, with which the text begins: a part such as `redis`, or an address."""
        return self.text.partition(" ")[0].rstrip(":")

    def __str__(self) -> str:
        line = f"{self.status:<4} {self.text}"
        return f"{line}\n       {self.advice}" if self.advice else line


def ok(text: str) -> Finding:
    return Finding(OK, text)


def warn(text: str, advice: str) -> Finding:
    return Finding(WARN, text, advice)


def fail(text: str, advice: str) -> Finding:
    return Finding(FAIL, text, advice)


def graded(value: float, *, warn_above: float, fail_above: float, text: str, advice: str) -> Finding:
    if value > fail_above:
        return fail(text, advice)
    return warn(text, advice) if value > warn_above else ok(text)


def describe_error(error: BaseException) -> str:
    """Describe the root cause of a network error in a few words."""
    for cause in reversed(list(_causes(error))):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, TimeoutError) or "timed out" in str(cause).lower():
            return "the request timed out"
        if isinstance(cause, socket.gaierror):
            return "the host name is unknown"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return (str(error).partition("\n")[0] or type(error).__name__)[:200]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it came from; libraries also hide it among arguments."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and found not in seen:
            seen.append(found)
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
