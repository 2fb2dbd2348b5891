"""The fault matrix: fault by moment by policy, on a real broker with real silo processes."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import CohortTimeout
from tests.faults.cells import CELLS, IN_THE_CUT, MOMENTS, Cell
from tests.faults.harness import COHORT, SPARE, SPARE_VALUE, VALUES, VICTIM, wait_for_new
from tests.faults.page import PAGE, Outcomes
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.transports import queue_admin
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FLOATS = 2_000_000
COLUMN = tff.TensorType(np.float32, [None])
MODEL = tff.TensorType(np.float32, [FLOATS])
SPRINGS = 1_500_000
"""Bytes of the 8 MB in transit when the fault is injected. More than 5 MB of the rest do not fit into socket buffers,
so that a part of them is still unsent by then."""


@tff.tensorflow.computation(COLUMN, MODEL)
def local(column, model):
    return tf.reduce_sum(column), model


@tff.tensorflow.computation(COLUMN, np.float32)
def again(column, total):
    return tf.reduce_sum(column) + 0 * total


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS), tff.FederatedType(MODEL, tff.SERVER))
def two_stages(values, model):
    there = tff.federated_map(local, (values, tff.federated_broadcast(model)))
    first = tff.federated_sum(there[0])
    second = tff.federated_sum(tff.federated_map(again, (values, tff.federated_broadcast(first))))
    return first, second, tff.federated_mean(there[1])


@pytest.fixture(scope="module")
def model():
    return np.random.default_rng(4).normal(size=FLOATS).astype(np.float32)


@pytest.fixture(scope="session")
def outcomes(request):
    found = Outcomes()
    yield found
    if request.config.getoption("--faults"):
        print("\n" + "\n".join(found.lines()))


def pytest_generate_tests(metafunc):
    if "cell" in metafunc.fixturenames:
        every = metafunc.config.getoption("--faults")
        cells = [cell for cell in CELLS if every or cell.name in IN_THE_CUT]
        metafunc.parametrize("cell", cells, ids=[cell.name for cell in cells])


def test_fault_has_its_expected_result(cell: Cell, bench, model, outcomes):
    outcomes.seconds[cell] = None
    bench.mend()
    moments = Moments(cell, bench)
    options = {
        "fail": {"min_silos": 3},
        "drop": {"min_silos": 2, "stragglers": "drop"},
        "replace": {"min_silos": 2, "stragglers": "replace"},
    }[cell.policy]
    with fedbroker.create_sync_execution_context(
        bench.broker.url,
        cohort=COHORT,
        on_event=moments.hear,
        **context_settings(**options, stage=cell.stage_timeout, join=2.0 if cell.fault == "leaving" else 30.0),
    ) as context:

        def ask():
            first, second, _ = context.invoke(
                two_stages, pack_arguments(two_stages, (fedbroker.data("numbers"), model))
            )
            return float(first), float(second)

        def present():
            return {silo.name: silo.incarnation for silo in context._coordinator._cohort.silos}

        context.invoke(nothing, None)  # connect, so that the roster is known
        wait_until(lambda: present().keys() == VALUES.keys(), 30, "three silos are there")
        incarnation = present()[VICTIM]
        moments.arm()
        with ThreadPoolExecutor(1) as pool:
            started = time.monotonic()
            asking = pool.submit(ask)
            moments.strike()
            error = asking.exception(500)
            seconds = time.monotonic() - started
        if error is not None and not (cell.errors and isinstance(error, cell.errors)):
            raise error
        check_report(cell, None if error else asking.result(), error, context.last_session)
        replaced = bench.victim.running is False or bench.victim.process.ended or "restarted" in cell.fault
        bench.mend()
        wait_for_new(present, incarnation if replaced and cell.fault != "broker restarted" else None)
        assert ask() == (111.0, 111.0)
        assert context.last_session.participants == tuple(VALUES)
        key = context._coordinator._cohort._transport.coordinator_id
    asyncio.run(nothing_is_left(bench.broker.url, key))
    outcomes.seconds[cell] = seconds


@tff.federated_computation()
def nothing():
    return tff.federated_sum(tff.federated_value(np.int32(0), tff.CLIENTS))


def check_report(cell, result, error, report):
    if isinstance(error, CohortTimeout):
        assert VICTIM not in error.present
        return
    if error is not None:
        assert report.error == str(error).replace(f"{error.computation}: ", "")
        assert VICTIM in str(error)
        return
    assert result in cell.results
    assert report.error == ""
    first, second = result
    sums = VALUES | {SPARE: SPARE_VALUE}
    assert [sum(sums[name] for name in stage.participants) for stage in report.stages] == [first, second]
    assert (VICTIM in report.participants) == (second == 111.0)
    assert set(report.dropped) == (
        {VICTIM} if VICTIM not in report.participants and VICTIM in report.members else set()
    )
    if second == 1101.0:
        assert {silo.silo: silo.in_place_of for silo in report.stages[0].silos}[SPARE] == VICTIM


async def nothing_is_left(url, key):
    async with asyncio.timeout(30), queue_admin(url) as look:
        for queue in (f"fedbroker.{kind}.{key}" for kind in ("callback", "results", "roster")):
            assert await look.depth(queue) is None, queue
        for silo in VALUES:
            assert await look.depth(f"fedbroker.work.{COHORT}.{silo}") == 0


class Moments:
    """Waits for a cell's moment, and injects the fault then."""

    def __init__(self, cell: Cell, bench) -> None:
        assert cell.moment in MOMENTS
        self.cell = cell
        self.bench = bench
        self.armed = False
        self.struck = False

    def arm(self):
        """Prepare for the moment, before the invocation."""
        self.armed = True
        victim = self.bench.victim
        self.reads = victim.reads
        match self.cell.moment:
            case "forming":
                self._meddle()
            case "blobs under way":
                self.trap = victim.proxy.stall_after(SPRINGS, "down")
            case "computing":
                victim.hold()
            case "reply under way":
                self.trap = victim.proxy.stall_after(SPRINGS, "up")

    def strike(self):
        """Wait for the moment and inject the fault, during the invocation."""
        match self.cell.moment:
            case "blobs under way" | "reply under way":
                assert self.trap.sprung.wait(20), "the moment never came"
                self._meddle()
                self.bench.flow()
            case "computing":
                wait_until(lambda: self.bench.victim.reads > self.reads, 20, "the silo reads its data")
                self._meddle()
                self.bench.victim.release()

    def hear(self, event):
        """Handle an event on the context's event loop, without blocking it."""
        over = (event.name, event.stage) == ("stage_finished", 0)
        if over and self.armed and not self.struck and self.cell.moment == "between stages":
            self._meddle()

    def _meddle(self):
        self.struck = True
        self.bench.meddle(self.cell.fault, spare=self.cell.policy == "replace")


def test_page_names_every_cell(request, outcomes):
    if request.config.getoption("--faults"):
        assert None not in outcomes.seconds.values()
        PAGE.write_text(outcomes.page(), encoding="utf-8")
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"Each of the {len(CELLS)} cells" in text, "run `make faults`"
    assert "FAILED" not in text
    assert {cell.name for cell in CELLS} >= IN_THE_CUT
