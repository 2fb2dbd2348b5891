"""Export of traces to a collector, configured by ``OTEL_*`` variables; imported only if they enable it.

Needs the extra ``otel``.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult

from fedbroker.log import get_logger
from fedbroker.text import ESCAPES, has_stray_at

__all__ = ["export"]

_log = get_logger(__name__)

UNNAMED: Final = "unknown_service"
"""OpenTelemetry's name for a service without a configured name."""
_URLS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
FAREWELL: Final = 3000
"""Milliseconds at the process's exit to send the remaining spans."""


def export(exporter: str, service: str, resource: Mapping[str, str | int | float | bool]) -> None:
    """Make a tracer provider and set it, unless the program has set one.

    Args:
        exporter: the value of ``OTEL_TRACES_EXPORTER``.
        service: the service's name, unless the environment gives another.
        resource: attributes of the process.

    Raises:
        ValueError: the exporter is unknown, or a URL holds a login that would be read as a path.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    if exporter not in ("otlp", "console"):
        raise ValueError(f"OTEL_TRACES_EXPORTER={exporter}: otlp, console and none are known")
    for name, url in _urls():
        if has_stray_at(url if "://" in url else f"http://{url}"):  # a proxy URL may omit its scheme
            raise ValueError(f"{name} has an @ where no login ends: {ESCAPES}")
    target: SpanExporter = OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter()
    said = Resource.create(dict(resource))  # including OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    if str(said.attributes.get("service.name", UNNAMED)).startswith(UNNAMED):
        said = said.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=said, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Quiet(target)))
    trace.set_tracer_provider(provider)
    # The library's own shutdown waits without a limit for an unreachable collector.
    atexit.register(provider.force_flush, FAREWELL)


class _Quiet(SpanExporter):
    """Logs once that spans cannot be sent, in place of a traceback every five seconds."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        reason = "the collector refused them"
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            result, reason = SpanExportResult.FAILURE, _words(error)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            _log.warning("traces not exported", reason=reason[:300])
        self._failing = failed
        return result

    def shutdown(self) -> None:
        """Shut down the exporter."""
        self._exporter.shutdown()


def _urls() -> Iterator[tuple[str, str]]:
    """Yield the variables and URLs in the environment that lead to the collector."""
    for name in chain(_URLS, _PROXIES, map(str.upper, _PROXIES)):
        if url := os.environ.get(name):
            yield name, url


def _words(error: Exception) -> str:
    """Return the error's class, with its message only if no URL that the message may show holds a login."""
    name = type(error).__name__
    return name if any("@" in url for _, url in _urls()) else f"{name}: {error}"
