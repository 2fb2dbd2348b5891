"""Traces: OpenTelemetry is imported only if it is used, and never interferes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.wait import PROCESS_SECONDS

VARIABLES = [name for name in os.environ if name.startswith("OTEL_")]


def fresh(program, **environment):
    """Run a program in a fresh interpreter; return its JSON output and its log."""
    ours = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", f"import json, sys; sys.path[:0] = {sys.path!r}\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS, env={**ours, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


USE = """
from fedbroker import tracing
tracing.start("service")
with tracing.span("outer", cohort="c") as span:
    span.set(bytes=1)
    span.failed("it did")
    headers = tracing.carrier()
    with tracing.continued({"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}):
        inner = tracing.carrier()
tracing.flush(1.0)
"""


@pytest.mark.parametrize("environment", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}])
def test_opentelemetry_is_not_imported_by_default(environment):
    program = """
import fedbroker_worker.service, fedbroker.session.cohort
print(json.dumps([headers, inner, [name for name in sys.modules if name.startswith("opentelemetry")]]))
"""
    assert fresh(USE + program, **environment)[0] == [{}, {}, []]


@pytest.mark.alone
def test_unreachable_collector_is_logged_once_and_delays_exit_briefly():
    program = """
import time
for _ in range(3):
    with tracing.span("more"):
        pass
    started = time.monotonic()
    tracing.flush(2.0)
print(json.dumps([headers["traceparent"][:2], time.monotonic() - started]))
"""
    (version, seconds), said = fresh(USE + program, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert version == "00"
    assert seconds < 2.5
    assert said.count("trace_export_failed") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("before", "environment", "words"),
    [
        ("sys.modules['opentelemetry'] = None", {}, "add the extra `otel`"),
        ("", {"OTEL_TRACES_EXPORTER": "zipkin"}, "otlp, console and none are known"),
    ],
)
def test_invalid_settings_are_errors(before, environment, words):
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **environment}
    found, said = fresh(f"{before}\n{USE}\nprint(json.dumps(1))", **environment)
    assert found == 1
    assert words in said
    assert len(said.splitlines()) == 1


OWN = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from fedbroker import tracing
from fedbroker.errors import BrokerLost

memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)
tracing.start("service")
with trace.get_tracer("program").start_as_current_span("program"), tracing.span("invocation", cohort="c"):
    sent = tracing.carrier()
odd = {**sent, "baggage": "k=v", "x-death": [1], "tracestate": "a" * 2000}
try:
    with tracing.continued(odd), tracing.span("work", "consumer"):
        copy = tracing.carried(odd)
        raise BrokerLost("amqp://me:secret@host/ went away")
except BrokerLost:
    pass
with tracing.continued({"traceparent": "nonsense"}), tracing.span("alone"):
    pass
try:
    with tracing.span("given up") as span:
        span.failed("no number", "computation")
        raise BrokerLost("its answer was not awaited")
except BrokerLost:
    pass
spans = {one.name: one for one in memory.get_finished_spans()}
print(json.dumps({
    "same": len({spans[name].context.trace_id for name in ("program", "invocation", "work")}),
    "parents": [spans["invocation"].parent.span_id == spans["program"].context.span_id,
                spans["work"].parent.span_id == spans["invocation"].context.span_id,
                spans["alone"].parent is None],
    "copy": sorted(copy),
    "cohort": spans["invocation"].attributes["fedbroker.cohort"],
    "said": spans["work"].status.description,
    "type": spans["work"].attributes["error.type"],
    "events": len(spans["work"].events),
    "kind": spans["work"].kind.name,
    "first": [spans["given up"].status.description, spans["given up"].attributes["error.type"]],
}))
"""


def test_provider_and_span_of_the_program_are_used():
    found, said = fresh(OWN, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert said == ""
    assert found == {
        "same": 1,
        "parents": [True, True, True],
        "copy": ["traceparent"],
        "cohort": "c",
        "said": "[FB2003] amqp://***@host/ went away",
        "type": "FB2003",
        "events": 0,
        "kind": "CONSUMER",
        "first": ["no number", "computation"],
    }
