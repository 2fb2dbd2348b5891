"""A collector of traces: an HTTP server on the loopback that accepts OTLP as protobuf and records the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["ExportedSpan", "TraceCollector", "trace_collector"]


@dataclass(frozen=True, slots=True)
class ExportedSpan:
    """An exported span."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    message: str
    start: int
    end: int
    attributes: dict[str, object]
    resource: dict[str, object]


@dataclass
class TraceCollector:
    """The received spans, and the URL to send spans to."""

    url: str = ""
    spans: list[ExportedSpan] = field(default_factory=list)

    def named(self, name: str) -> list[ExportedSpan]:
        return [span for span in self.spans if span.name == name]

    def parent(self, span: ExportedSpan) -> ExportedSpan:
        (found,) = [one for one in self.spans if one.id == span.parent]
        return found

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [traced(span, about) for span in scope.spans]


def traced(span, about) -> ExportedSpan:
    return ExportedSpan(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        failed=span.status.code == 2,
        message=span.status.message,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=values(span.attributes),
        resource=about,
    )


def values(attributes) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def trace_collector() -> Iterator[TraceCollector]:
    """Run a collector within the block."""
    collector = TraceCollector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
