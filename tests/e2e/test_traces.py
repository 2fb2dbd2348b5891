"""One trace from an invocation through the broker to the silos' computations and back, received by a collector."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fedbroker.testing import local_cohort
from tests.support.program_process import start_program
from tests.support.trace_collector import trace_collector
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SILOS = {"ewr", "jfk"}

PROGRAM = """
import sys
import fedbroker, numpy as np, tensorflow_federated as tff
from tests.support.computations import minus, positive

LARGE = tff.TensorType(np.float32, [1 << 19])  # 2 MiB: it goes by the bulk lane
AT_CLIENTS = tff.FederatedType(np.float32, tff.CLIENTS)

@tff.federated_computation(AT_CLIENTS, tff.FederatedType(LARGE, tff.SERVER))
def traced(x, large):
    first = tff.tensorflow.computation(lambda a: a[0], LARGE)
    moved = tff.federated_map(minus, (x, tff.federated_map(first, tff.federated_broadcast(large))))
    mean = tff.federated_broadcast(tff.federated_mean(moved))
    return tff.federated_sum(tff.federated_map(minus, (moved, mean)))

@tff.federated_computation(AT_CLIENTS)
def failing(x):
    return tff.federated_sum(tff.federated_map(positive, x))

fedbroker.set_sync_execution_context(sys.argv[1], cohort=sys.argv[2], min_silos=2, progress=False)
print(traced([1.0, 3.0], np.ones(1 << 19, np.float32)))
try:
    failing([1.0, -1.0])
except fedbroker.FedbrokerError as error:
    print(error.code)
"""


@pytest.fixture(scope="module")
def collector(broker, tmp_path_factory):
    """Collect all spans of a program with two invocations on two silos."""
    program = tmp_path_factory.mktemp("traces") / "program.py"
    program.write_text(PROGRAM)
    with trace_collector() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'workers'}")
        with (
            start_program(program, broker.url, "traces") as running,
            local_cohort({name: {} for name in SILOS}, cohort="traces", broker=broker.url),
        ):
            assert running.output(PROCESS_SECONDS) == "0.0\nFB4001\n"
            assert "Traceback" not in running.complaints
        # The silos have left the cohort and exported their spans.
        wait_until(lambda: len(collector.named("work")) >= 6, 10)
        yield collector


def of_trace(collector, root):
    return [span for span in collector.spans if span.trace == root.trace]


def roots(collector):
    return {span.attributes["fedbroker.computation"]: span for span in collector.named("invocation")}


def test_spans_of_an_invocation_are_one_trace(collector):
    assert all(root.parent == "" for root in roots(collector).values())
    spans = of_trace(collector, roots(collector)["traced"])
    count = Counter(span.name for span in spans)
    assert count["invocation"] == 1
    assert count["client stage"] == 2
    assert count["server stage"] >= 2
    assert count["silo request"] == count["work"] == count["compute"] == 4
    assert {span.resource["service.name"] for span in spans} == {"fedbroker-coordinator", "fedbroker-silo"}
    assert {span.trace for span in collector.spans} == {root.trace for root in roots(collector).values()}


def test_each_span_has_the_expected_parent(collector):
    root = roots(collector)["traced"]
    for span in of_trace(collector, root):
        if span is root:
            continue
        parent = collector.parent(span)
        expected = {
            "client stage": ("invocation",),
            "server stage": ("invocation",),
            "silo request": ("client stage",),
            "work": ("silo request",),
            "compute": ("work",),
            "transfer": {
                "blob": ("client stage",),
                "results": ("silo request",),
                "blobs": ("work",),
                "answer": ("work",),
            }.get(str(span.attributes.get("fedbroker.what")), ()),
        }[span.name]
        assert parent.name in expected, (span, parent)
        assert span.end >= span.start > 0
        if span.name == "work":
            assert span.attributes["fedbroker.silo"] == parent.attributes["fedbroker.silo"]
            assert span.resource["fedbroker.silo"] == span.attributes["fedbroker.silo"]
            assert (parent.kind, span.kind) == (4, 5)  # producer and consumer
            assert parent.start <= span.start


def test_bulk_transfers_have_spans(collector):
    spans = of_trace(collector, roots(collector)["traced"])
    sent = [span for span in spans if span.attributes.get("fedbroker.what") == "blob"]
    assert any(span.attributes["fedbroker.bytes"] > 2**21 and span.attributes["fedbroker.silo"] == "*" for span in sent)
    assert {span.attributes["fedbroker.silo"] for span in spans if span.name == "work"} == SILOS


def test_failure_is_recorded_in_all_spans_above_it(collector):
    root = roots(collector)["failing"]
    failed = [span for span in of_trace(collector, root) if span.failed]
    assert {"compute", "work", "silo request", "client stage", "invocation"} <= {span.name for span in failed}
    kinds = {(span.name, span.attributes["error.type"]) for span in failed}
    assert {("invocation", "FB4001"), ("client stage", "FB4001"), ("silo request", "failed")} <= kinds
    (work,) = [span for span in failed if span.attributes["error.type"] == "computation"]
    assert "Assert failed" in work.message
    assert collector.parent(work).attributes["fedbroker.outcome"] == "failed"
    assert root.failed
