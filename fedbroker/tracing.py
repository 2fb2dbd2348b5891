"""Spans for OpenTelemetry, where it is at hand and wanted; where it is not, nothing of it is even imported.

It is wanted where the program has imported it, or where ``OTEL_*`` variables say where traces go. Imports the base
only; OpenTelemetry itself is found, or imported, when it is used.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from fedbroker.errors import FedbrokerError
from fedbroker.log import get_logger
from fedbroker.redact import without_secrets

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan

__all__ = ["Kind", "Span", "carried", "carrier", "continued", "flush", "only_codes", "span", "start"]

Kind: TypeAlias = Literal["internal", "producer", "consumer"]
Value: TypeAlias = str | int | float | bool

_log = get_logger(__name__)

HEADERS: Final = ("traceparent", "tracestate")
"""W3C's names, of AMQP headers too; baggage does not travel."""
LONGEST: Final = 1024
_SWITCHES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


class Span:
    """A span, or nothing.

    Args:
        real: OpenTelemetry's, or None.
    """

    __slots__ = ("_failed", "_real")

    def __init__(self, real: OtelSpan | None = None) -> None:
        self._real = real
        self._failed = False

    def set(self, **attributes: Value) -> None:
        """What there is to say of it, under names that begin with ``fedbroker.``."""
        if self._real is not None:
            self._real.set_attributes(_named(attributes))

    def failed(self, what: str, code: str = "") -> None:
        """It did not end well; what is said first stays, whatever comes of it."""
        if self._real is not None and not self._failed:
            self._failed = True
            from opentelemetry.trace import Status, StatusCode

            self._real.set_status(Status(StatusCode.ERROR, without_secrets(what)))
            if code:
                self._real.set_attribute("error.type", code)


_NOTHING: Final = Span()

_only_codes: Final = ContextVar("fedbroker_only_codes", default=False)


@contextmanager
def only_codes() -> Iterator[None]:
    """Within the block, errors that end a span are told by their code: their words may hold a silo's data.

    Holds for tasks that are created within the block, too. A collector of traces is not the silo's own log.
    """
    token = _only_codes.set(True)
    try:
        yield
    finally:
        _only_codes.reset(token)


@contextmanager
def span(name: str, kind: Kind = "internal", **attributes: Value) -> Iterator[Span]:
    """A span around the block, child of the one around this, if there is one.

    Args:
        name: what is done, one of few words; what differs goes into the attributes.
        kind: ``producer`` where work goes out by the broker, ``consumer`` where it came in.
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
        record_exception=False,  # it would carry a traceback
        set_status_on_exception=False,
    )
    with started as real:
        made = Span(real)
        try:
            yield made
        except BaseException as error:
            made.failed(*_words(error))
            raise


def _words(error: BaseException) -> tuple[str, str]:
    match error:
        case FedbrokerError():
            return str(error.code if _only_codes.get() else error), str(error.code)
        case asyncio.CancelledError():
            return "nobody waits for it any more", "cancelled"
        case _ if _only_codes.get():
            return "unexpected error", FedbrokerError.code
        case _:
            return type(error).__name__, type(error).__name__


def carrier() -> dict[str, str]:
    """The headers by which whoever gets a message goes on with the trace; empty outside of one."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


def carried(headers: Mapping[str, object]) -> dict[str, str]:
    """Of a message's headers, those of its trace, for a copy of it."""
    return {name: value for name in HEADERS if isinstance(value := headers.get(name), str) and len(value) <= LONGEST}


@contextmanager
def continued(headers: Mapping[str, object]) -> Iterator[None]:
    """Within the block spans are children of the one that a message with these headers was sent in."""
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
    """Have this process export its traces, if the environment says where to and the program has not seen to it itself.

    Once in a process; whatever is wrong is logged, and nothing is exported then.

    Args:
        service: its name, where ``OTEL_SERVICE_NAME`` gives no other.
        resource: what else there is to say of the process, under names that begin with ``fedbroker.``.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none"
    if off or not any(os.environ.get(name) for name in _SWITCHES):
        return
    try:
        from fedbroker.exporting import export

        export(exporter, service, _named(resource))
    except ImportError:
        _log.warning("traces not exported", reason="OpenTelemetry is not installed: add the extra `otel`")
    except Exception as error:
        _log.warning("traces not exported", reason=f"{type(error).__name__}: {error}")


def flush(seconds: float) -> None:
    """Have what was recorded exported; waits so long at most."""
    api = sys.modules.get("opentelemetry.trace")
    flushing: Any = getattr(api.get_tracer_provider(), "force_flush", None) if api is not None else None
    if flushing is not None:
        try:
            flushing(int(1000 * seconds))
        except Exception as error:
            _log.warning("traces not exported", reason=f"{type(error).__name__}: {error}")


def _named(attributes: Mapping[str, Value]) -> dict[str, Any]:
    return {f"fedbroker.{name}": value for name, value in attributes.items()}
