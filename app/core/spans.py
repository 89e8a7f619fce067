"""The interface to traces, for code that continues a trace or passes it on. `app.telemetry` implements it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

# The name of a span's attribute, and its value: never personal data, since traces leave the fleet.
Attributes = Mapping[str, str | int]


class Tracer(Protocol):
    def traceparent(self) -> str | None: ...

    def span(self, name: str, parent: str | None, attributes: Attributes) -> AbstractContextManager[object]: ...


tracer: Tracer | None = None  # set once, before the first request or job


def current_traceparent() -> str | None:
    """Return the current span in the form of the header `traceparent` (W3C Trace Context), or None without one."""
    return tracer.traceparent() if tracer else None


def continued(name: str, traceparent: str | None, attributes: Attributes) -> AbstractContextManager[object]:
    """Make a span current during the block: in the trace of `traceparent`, or in a new one if it is None."""
    return tracer.span(name, traceparent, attributes) if tracer else nullcontext()
