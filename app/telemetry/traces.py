"""Sends spans to an OpenTelemetry collector, with OpenTelemetry's SDK.

The SDK reads its other settings from the environment, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER.
"""

import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.core import logs
from app.core.spans import Attributes
from app.core.version import VERSION

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.5  # for the last spans when the process stops
BATCH_SPANS = 64  # encoding them takes about 3 ms, in which an instance does nothing else

_propagator = TraceContextTextMapPropagator()
# The `traceparent` of the request, job or message that this code belongs to: what it causes is not part of its SQL.
_entry: ContextVar[str | None] = ContextVar("entry", default=None)
# They report each failed attempt and each dropped span; `_Delivery` reports an outage once.
_NOISY_LOGGERS = ("opentelemetry.sdk._shared_internal", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


class Traces:
    def __init__(self, endpoint: str, instance_id: str) -> None:
        """`endpoint` is the address of the collector without the path of the signal, such as `http://collector:4318`."""
        own = {"service.name": "reporadar", "service.version": VERSION, "service.instance.id": instance_id}
        self._endpoint = endpoint
        self._provider = TracerProvider(
            resource=Resource.create(own).merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        if not isinstance(self._provider.sampler, ParentBased):  # so that `request` decides for its trace
            self._provider.sampler = ParentBased(self._provider.sampler)
        self._tracer = self._provider.get_tracer("reporadar")
        self._last_spans: threading.Thread | None = None  # while the process stops

    def start(self) -> None:
        """Start the thread that sends the spans; where gevent has patched the standard library, it is a greenlet."""
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        exporter = _Delivery(self._endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=BATCH_SPANS))
        log.info("traces are sent to %s", exporter.collector)

    def flush(self) -> None:
        """Begin to send the last spans. Does not wait."""
        self._last_spans = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        self._last_spans.start()

    def stop(self) -> None:
        """Wait for the last spans to be sent, at most FLUSH_SECONDS. They are lost if the process has less time."""
        if self._last_spans is None:
            self.flush()
        assert self._last_spans
        with suppress(TimeoutError):  # of a lifecycle: a collector that does not answer makes no stop unclean
            self._last_spans.join(FLUSH_SECONDS)

    def traceparent(self) -> str | None:
        return _entry.get()

    @contextmanager
    def span(self, name: str, parent: str | None, attributes: Attributes, kind: SpanKind = SpanKind.CONSUMER) -> Iterator[Span]:
        """Make a span current during the block: in the trace of `parent`, a `traceparent`, or in a new one if it is None."""
        with self._current(_parse(parent), name, attributes, kind) as span:
            yield span

    @contextmanager
    def request(self, name: str, traceparent: str, attributes: Attributes) -> Iterator[Span]:
        """Make the span of a request current. It continues the trace of the client, but not the client's decision to sample it.

        Any client can ask for samples, and choose IDs that OTEL_TRACES_SAMPLER=parentbased_traceidratio would select. Therefore
        the sampler decides about a random ID.
        """
        parent = _parse(traceparent)
        if parent.is_valid:
            result = self._provider.sampler.should_sample(None, secrets.randbits(128), name)
            is_sampled = result.decision is Decision.RECORD_AND_SAMPLE
            flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
            parent = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
        with self._current(parent, name, attributes, SpanKind.SERVER) as span:
            yield span

    @contextmanager
    def child(self, name: str, attributes: Attributes, kind: SpanKind = SpanKind.CLIENT) -> Iterator[None]:
        """Add a span to the current one. Callers check `is_recording` first."""
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                record_error(span, error)
                raise

    def start_child(self, name: str, attributes: Attributes) -> Span:
        """Return a new span below the current one, which the caller ends."""
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    @contextmanager
    def _current(self, parent: SpanContext, name: str, attributes: Attributes, kind: SpanKind) -> Iterator[Span]:
        # A parent that is invalid begins a new trace.
        context = trace.set_span_in_context(NonRecordingSpan(parent))
        span = self._tracer.start_span(name, context, kind, attributes)
        trace_id, span_id, flags = _formatted(span.get_span_context())
        tokens = logs.trace_id.set(trace_id), _entry.set(f"00-{trace_id}-{span_id}-{flags}")
        try:
            with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    yield span
                except BaseException as error:
                    record_error(span, error)
                    raise
        finally:
            logs.trace_id.reset(tokens[0])
            _entry.reset(tokens[1])


def is_recording() -> bool:
    """Return whether this code runs in a request or a job whose trace is sampled. Background tasks have no spans."""
    return trace.get_current_span().is_recording()


def record_error(span: Span, error: BaseException) -> None:
    """Record the class of an error. Its message may contain personal data."""
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)


def _parse(traceparent: str | None) -> SpanContext:
    context = _propagator.extract({"traceparent": traceparent} if traceparent else {})
    return trace.get_current_span(context).get_span_context()


def _formatted(context: SpanContext) -> tuple[str, str, str]:
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id), f"{context.trace_flags:02x}"


class _Delivery(SpanExporter):
    """Sends spans, and logs the beginning and the end of an outage."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self.collector = f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"  # without credentials
        self._exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing and not self._is_failing:
            log.warning("traces are dropped: the collector %s does not accept them", self.collector)
        elif self._is_failing and not is_failing:
            log.info("the collector %s accepts traces again", self.collector)
        self._is_failing = is_failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
