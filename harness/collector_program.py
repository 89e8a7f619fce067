"""An OpenTelemetry collector for OTLP over HTTP: `python -m harness.collector_program PORT FOLDER`.

It appends each span to FOLDER/spans as a line of JSON. While FOLDER/refuse exists, it answers with 503.
"""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        self._reply(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_accepted = not (self.folder / "refuse").exists()
        if is_accepted:
            lines = "".join(json.dumps(span) + "\n" for span in decode(body))
            with (self.folder / "spans").open("a") as spans:
                spans.write(lines)
        self._reply(200 if is_accepted else 503)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _reply(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def decode(body: bytes) -> Iterator[dict[str, Any]]:
    for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
        process = {one.key: one.value.string_value for one in resource_spans.resource.attributes}
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield {
                    "process": process["service.instance.id"],
                    "service": process["service.name"],
                    "name": span.name,
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "is_error": span.status.code == span.status.STATUS_CODE_ERROR,
                    "attributes": {one.key: _value(one.value) for one in span.attributes},
                }


def _value(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    return str(getattr(value, kind)) if kind else ""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
