"""OpenTelemetry spans, if it is installed and enabled; otherwise nothing of it is imported.

It is enabled if the program has imported it, or if ``OTEL_*`` variables name a destination for traces. Every import of
OpenTelemetry is therefore inside a function: the extra ``otel`` is optional.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from fedbroker.errors import FedbrokerError
from fedbroker.log import get_logger
from fedbroker.text import ESCAPES, has_stray_at, without_secrets

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span as OtelSpan

__all__ = ["Kind", "Span", "carried", "carrier", "continued", "flush", "only_codes", "span", "start"]

Kind: TypeAlias = Literal["internal", "producer", "consumer"]
Value: TypeAlias = str | int | float | bool

_log = get_logger(__name__)

HEADERS: Final = ("traceparent", "tracestate")
"""W3C's header names, also used in AMQP; baggage is not propagated."""
LONGEST: Final = 1024
"""Maximal characters of a received header: W3C's limit for ``tracestate`` is 512, which leaves room."""
FAREWELL: Final = 3000
"""Milliseconds at the process's exit to send the remaining spans: a collector that is down must not hold it up."""
UNNAMED: Final = "unknown_service"
"""OpenTelemetry's name for a service without a configured name."""

_URLS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SWITCHES: Final = (*_URLS, "OTEL_TRACES_EXPORTER")
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


class Span:
    """A span, or a no-op.

    Args:
        real: OpenTelemetry's span, or None.
    """

    __slots__ = ("_failed", "_real")

    def __init__(self, real: OtelSpan | None = None) -> None:
        self._real = real
        self._failed = False

    def set(self, **attributes: Value) -> None:
        """Set attributes, under names that begin with ``fedbroker.``."""
        if self._real is not None:
            self._real.set_attributes(_named(attributes))

    def failed(self, what: str, code: str = "") -> None:
        """Mark the span as failed; the first call counts."""
        if self._real is not None and not self._failed:
            self._failed = True
            from opentelemetry.trace import Status, StatusCode

            self._real.set_status(Status(StatusCode.ERROR, without_secrets(what)))
            if code:
                self._real.set_attribute("error.type", code)


_NOTHING: Final = Span()

_only_codes: Final = ContextVar("fedbroker_only_codes", default=False)


@contextmanager
def only_codes() -> Generator[None]:
    """Record only the codes of errors that end a span within the block: their messages may hold a silo's data.

    Also applies to tasks that are created within the block. A collector of traces is not the silo's own log.
    """
    token = _only_codes.set(True)
    try:
        yield
    finally:
        _only_codes.reset(token)


@contextmanager
def span(name: str, kind: Kind = "internal", **attributes: Value) -> Generator[Span]:
    """Open a span around the block, as a child of the current span, if any.

    Args:
        name: the activity, from a small set of names; details go into the attributes.
        kind: ``producer`` if work is sent through the broker, ``consumer`` if work was received.
        attributes: see :meth:`Span.set`.
    """
    api = sys.modules.get("opentelemetry.trace")
    if api is None or not hasattr(api, "get_tracer"):
        yield _NOTHING
        return
    started = api.get_tracer("fedbroker").start_as_current_span(
        name,
        kind=api.SpanKind[kind.upper()],
        attributes=_named(attributes),
        record_exception=False,  # the exception event would carry a traceback
        set_status_on_exception=False,
    )
    with started as real:
        made = Span(real)
        try:
            yield made
        except BaseException as error:
            made.failed(*_status_of(error))
            raise


def _status_of(error: BaseException) -> tuple[str, str]:
    """Return the description and the type of an error that ends a span."""
    match error:
        case FedbrokerError():
            return str(error.code if _only_codes.get() else error), str(error.code)
        case asyncio.CancelledError():
            return "cancelled: its result is no longer needed", "cancelled"
        case _ if _only_codes.get():
            return "unexpected error", FedbrokerError.code
        case _:
            return type(error).__name__, type(error).__name__


def carrier() -> dict[str, str]:
    """Return the headers with which a message's receiver continues the trace; empty outside of a trace."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


def carried(headers: Mapping[str, object]) -> dict[str, str]:
    """Return the trace headers of a message, for a copy of it."""
    return {name: value for name in HEADERS if isinstance(value := headers.get(name), str) and len(value) <= LONGEST}


@contextmanager
def continued(headers: Mapping[str, object]) -> Generator[None]:
    """Continue a message's trace: spans within the block are children of the span that sent these headers."""
    if "opentelemetry.trace" not in sys.modules or not (mine := carried(headers)):
        yield
        return
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    token = context.attach(TraceContextTextMapPropagator().extract(mine))
    try:
        yield
    finally:
        context.detach(token)


@functools.cache
def start(service: str, **resource: str) -> None:
    """Export this process's traces if the environment names a destination and the program has not set up an export.

    Runs once per process. Errors are logged, and then nothing is exported.

    Args:
        service: its name, unless ``OTEL_SERVICE_NAME`` gives another.
        resource: further attributes of the process, under names that begin with ``fedbroker.``.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none"
    if off or not any(os.environ.get(name) for name in _SWITCHES):
        return
    try:
        _export(exporter, service, _named(resource))
    except ImportError:
        _log.warning("trace_export_failed", reason="OpenTelemetry is not installed: add the extra `otel`")
    except Exception as error:
        _log.warning("trace_export_failed", reason=f"{type(error).__name__}: {error}")


def flush(seconds: float) -> None:
    """Export the recorded spans; wait at most that many seconds."""
    api = sys.modules.get("opentelemetry.trace")
    flushing: Any = getattr(api.get_tracer_provider(), "force_flush", None) if api is not None else None
    if flushing is not None:
        try:
            flushing(int(1000 * seconds))
        except Exception as error:
            _log.warning("trace_export_failed", reason=f"{type(error).__name__}: {error}")


def _export(exporter: str, service: str, resource: Mapping[str, Value]) -> None:
    """Make a tracer provider and set it, unless the program has set one.

    Args:
        exporter: the value of ``OTEL_TRACES_EXPORTER``.
        service: the service's name, unless the environment gives another.
        resource: attributes of the process.

    Raises:
        ImportError: OpenTelemetry is not installed.
        ValueError: the exporter is unknown, or a URL holds a login that would be read as a path.
    """
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    if exporter not in ("otlp", "console"):
        raise ValueError(f"OTEL_TRACES_EXPORTER={exporter}: otlp, console and none are known")
    for name, url in _collector_urls():
        if has_stray_at(url if "://" in url else f"http://{url}"):  # a proxy URL may omit its scheme
            raise ValueError(f"{name} has an @ outside its login: {ESCAPES}")
    target: SpanExporter = OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter()
    process = Resource.create(dict(resource))  # including OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    if str(process.attributes.get("service.name", UNNAMED)).startswith(UNNAMED):
        process = process.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=process, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(cast("SpanExporter", _QuietExporter(target))))
    trace.set_tracer_provider(provider)
    # The library's own shutdown waits without a limit for an unreachable collector.
    atexit.register(provider.force_flush, FAREWELL)


class _QuietExporter:
    """Logs once that spans cannot be sent, in place of a traceback every five seconds.

    It has the methods of ``SpanExporter``, which cannot be its base class: it is imported only if traces are exported.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        from opentelemetry.sdk.trace.export import SpanExportResult

        reason = "the collector refused them"
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            result, reason = SpanExportResult.FAILURE, _without_login(error)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            _log.warning("trace_export_failed", reason=reason[:300])
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _collector_urls() -> Iterator[tuple[str, str]]:
    """Yield the variables and URLs in the environment that lead to the collector."""
    for name in chain(_URLS, _PROXIES, map(str.upper, _PROXIES)):
        if url := os.environ.get(name):
            yield name, url


def _without_login(error: Exception) -> str:
    """Return the error's class, with its message only if no URL that the message may show holds a login."""
    name = type(error).__name__
    return name if any("@" in url for _, url in _collector_urls()) else f"{name}: {error}"


def _named(attributes: Mapping[str, Value]) -> dict[str, Any]:
    return {f"fedbroker.{name}": value for name, value in attributes.items()}
