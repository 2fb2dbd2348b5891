"""Faults in masked sums: each sum is exact, over exactly the silos that the report names.

Four silos take part. One of them, the victim, fails at each step of the protocol. Where silos may drop out, three are
needed; else the attempt fails, and another one has masks of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.context.loop import LoopThread
from fedbroker.deadline import Deadline
from fedbroker.errors import PolicyRefusal
from fedbroker.masking.offers import threshold_of
from fedbroker.transport import CoordinatorTransport
from fedbroker.wire.messages import MaskNotice
from tests.faults.cells import GIVES_UP, RECOVERS
from tests.support.gated_source import block_reads, gated_source, read_count, unblock_reads
from tests.support.local_tff import pack_arguments
from tests.support.masked_cohort import MASKED, masked_cohort, masked_context
from tests.support.proxy import Proxy
from tests.support.wait import wait_until
from tests.support.worker import child_runtimes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

VALUES = {"bos": 1, "ewr": 10, "jfk": 100, "lga": 1000}
VICTIM, SLOW = "ewr", "jfk"
CUT_SECONDS = 2.0
"""Time for which a link stays cut: longer than a notice takes to be repeated, or a silo to be missed."""
ALL, WITHOUT = sum(VALUES.values()), sum(VALUES.values()) - VALUES[VICTIM]
COLUMN = tff.TensorType(np.float32, [None])

Fault = Literal[
    "killed", "stopped", "runtime killed", "restarted", "broker restarted", "link cut", "coordinator's link cut"
]
Moment = Literal["before the offers", "before its reply", "after its reply", "while unmasking"]


@dataclass(frozen=True)
class Cell:
    """One cell: the fault, its moment, and the sum; ``dropped`` if the victim is not in it, None for an error."""

    fault: Fault
    moment: Moment
    dropped: bool | None
    stage: float = RECOVERS
    stragglers: Literal["fail", "drop"] = "drop"

    @property
    def name(self) -> str:
        return f"{self.fault}, {self.moment}, {self.stragglers}"


CELLS = [
    # A silo that is gone before it has sent its masked value is dropped; afterwards the others reveal its shares.
    *[
        Cell(fault, moment, dropped, GIVES_UP)
        for fault in ("killed", "stopped")
        for moment, dropped in (
            ("before the offers", True),
            ("before its reply", True),
            ("after its reply", False),
            ("while unmasking", False),
        )
    ],
    # The work runs again in a new runtime; nothing was masked yet.
    Cell("runtime killed", "before its reply", dropped=False),
    Cell("runtime killed", "after its reply", dropped=False),
    Cell("runtime killed", "while unmasking", dropped=False),
    # Another incarnation has other keys: it cannot answer for the first one.
    Cell("restarted", "before its reply", dropped=True),
    Cell("restarted", "after its reply", dropped=False),
    Cell("broker restarted", "before its reply", dropped=False),
    Cell("broker restarted", "after its reply", dropped=False),
    Cell("broker restarted", "while unmasking", dropped=False),
    # Lost links come back: repeated notices are answered, and the broker keeps replies.
    *[
        Cell(fault, moment, dropped=False, stragglers=stragglers)
        for fault in ("link cut", "coordinator's link cut")
        for stragglers, moments in (
            ("drop", ("before the offers", "before its reply", "after its reply", "while unmasking")),
            ("fail", ("before the offers", "before its reply", "after its reply")),
        )
        for moment in moments
    ],
    # Without drop-outs: an error names the victim, or another attempt succeeds.
    Cell("killed", "before its reply", None, GIVES_UP, "fail"),
    Cell("stopped", "before its reply", None, GIVES_UP, "fail"),
    Cell("killed", "after its reply", dropped=False, stragglers="fail"),
    Cell("runtime killed", "before its reply", dropped=False, stragglers="fail"),
    Cell("restarted", "before its reply", dropped=False, stragglers="fail"),
    Cell("restarted", "after its reply", dropped=False, stragglers="fail"),
    Cell("broker restarted", "before its reply", dropped=False, stragglers="fail"),
]
IN_THE_CUT = {
    "killed, before its reply, drop",
    "killed, after its reply, drop",
    "killed, while unmasking, drop",
    "broker restarted, while unmasking, drop",
    "link cut, while unmasking, drop",
    "restarted, before its reply, fail",
}


@tff.tensorflow.computation(COLUMN)
def whole(column):
    return tf.cast(tf.reduce_sum(column), tf.int32)


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def masked_sum(columns):
    values = tff.federated_map(whole, columns)
    return tff.federated_secure_sum(values, 10_000), tff.federated_secure_sum(values, 1 << 30)


@pytest.fixture(scope="module")
def silos(tmp_path_factory):
    """Run four silos with keys on their own broker."""
    directory = tmp_path_factory.mktemp("masked")
    gated_source(directory / "plugins")
    sources = {name: {"numbers": {"source": "gated", "value": float(value)}} for name, value in VALUES.items()}
    with pytest.MonkeyPatch.context() as patch, PrivateBroker(directory=directory / "node") as broker:
        patch.setenv("PYTHONPATH", str(directory / "plugins"), prepend=os.pathsep)
        with (
            masked_cohort(
                broker, "masked-faults", sources, policy=MASKED, heartbeat=0.5, directory=directory
            ) as cohort,
            links(broker.url, cohort) as cut,
        ):
            yield broker, cohort, cut


@contextmanager
def links(url, cohort):
    """Put the victim and the coordinator behind proxies; yield a function that cuts a link for a while."""
    loop = LoopThread("proxies")
    found: dict[str, Proxy] = {}
    try:
        for end in ("link cut", "coordinator's link cut"):
            found[end] = loop.run(proxy(url))
        victim = cohort.silos[VICTIM]
        victim.stop()
        path = victim.directory / "silo.toml"
        path.write_text(path.read_text().replace(url, found["link cut"].url))
        victim.start()
        victim.wait_ready(Deadline.after(60))
        cohort.url = found["coordinator's link cut"].url
        yield lambda fault: loop.run(found[fault].refuse_for(CUT_SECONDS))
    finally:
        cohort.silos[VICTIM].stop()  # through its proxy: without it, the silo would try to say goodbye until a time-out
        for one in found.values():
            loop.run(one.__aexit__(None, None, None))
        loop.stop()


async def proxy(url: str) -> Proxy:
    return await Proxy(url).__aenter__()


def pytest_generate_tests(metafunc):
    if "cell" in metafunc.fixturenames:
        every = metafunc.config.getoption("--faults")
        cells = [cell for cell in CELLS if every or cell.name in IN_THE_CUT]
        metafunc.parametrize("cell", cells, ids=[cell.name for cell in cells])


class Victim:
    """The silo that fails, and its fault."""

    def __init__(self, broker: PrivateBroker, silos, cut) -> None:
        self.broker, self.silos, self.cut = broker, silos, cut
        self.process = silos.silos[VICTIM]
        self.struck = False
        self._stopped: list[psutil.Process] = []

    def strike(self, fault: Fault) -> None:
        self.struck = True
        match fault:
            case "killed":
                self.process.kill()
            case "restarted":
                self.process.kill()
                self.process.start()
            case "stopped":
                stopped = psutil.Process(self.process.pid)
                stopped.send_signal(signal.SIGSTOP)
                self._stopped.append(stopped)
            case "runtime killed":
                for runtime in child_runtimes(self.process.pid):
                    runtime.kill()
            case "broker restarted":
                self.broker.kill()
                self.broker.start()
            case "link cut" | "coordinator's link cut":
                self.cut(fault)

    def mend(self) -> None:
        for process in self._stopped:
            process.send_signal(signal.SIGCONT)
        self._stopped.clear()
        if self.process.ended:
            self.process.start()
        self.process.wait_ready(Deadline.after(60))


def test_masked_sum_covers_exactly_the_silos_that_are_named(cell: Cell, silos, monkeypatch):
    broker, cohort, cut = silos
    victim, slow = Victim(broker, cohort, cut), cohort.silos[SLOW].directory
    answered, armed = [], []
    reads = {name: read_count(cohort.silos[name].directory) for name in VALUES}

    def hear(event):
        if event.name == "silo_answered":
            answered.append(event.silo)

    real_send = CoordinatorTransport.send_notice

    async def send_notice(self, silo, notice, *rest, **more):
        """Strike when the survivors are fixed and are about to be asked for their signatures."""
        unmasking = isinstance(notice, MaskNotice) and notice.step == "survivors"
        if unmasking and armed and cell.moment == "while unmasking" and not victim.struck:
            victim.struck = True
            await asyncio.to_thread(victim.strike, cell.fault)
        await real_send(self, silo, notice, *rest, **more)

    monkeypatch.setattr(CoordinatorTransport, "send_notice", send_notice)

    def ask():
        both = context.invoke(masked_sum, pack_arguments(masked_sum, (fedbroker.data("numbers"),)))
        return tuple(map(int, both))

    def present():
        return {silo.name: silo.incarnation for silo in context._coordinator._cohort.silos}

    policy = {"stragglers": "drop", "quorum": 3} if cell.stragglers == "drop" else {}
    with masked_context(cohort, **policy, stage=cell.stage, join=60.0, on_event=hear) as context:
        assert ask() == (ALL, ALL)
        before = present()[VICTIM]
        answered.clear()
        armed.append(True)
        reads = {name: read_count(cohort.silos[name].directory) for name in VALUES}
        if cell.moment == "before the offers":
            victim.strike(cell.fault)
        held = {"before its reply": victim.process.directory, "after its reply": slow}.get(cell.moment)
        if held is not None:
            block_reads(held)
        try:
            with ThreadPoolExecutor(1) as pool:
                asking = pool.submit(ask)
                if cell.moment == "before its reply":
                    wait_until(lambda: read_count(held) > reads[VICTIM], 20, "the victim reads its data")
                    wait_until(lambda: len(answered) == 3, 20, "the others have replied")
                    victim.strike(cell.fault)
                    unblock_reads(held)
                elif cell.moment == "after its reply":
                    wait_until(lambda: VICTIM in answered, 20, "the victim has replied")
                    victim.strike(cell.fault)
                    unblock_reads(held)
                error = asking.exception(500)
        finally:
            if held is not None:
                unblock_reads(held)
            victim.mend()
        assert victim.struck
        report = context.last_session
        if cell.dropped is None:
            assert VICTIM in str(error)
        else:
            found = asking.result()
            assert found == ((WITHOUT,) * 2 if cell.dropped else (ALL,) * 2)
            assert sum(VALUES[name] for name in report.participants) == found[0]
        again = cell.fault in ("killed", "restarted")
        wait_until(lambda: present().keys() == VALUES.keys() and (not again or present()[VICTIM] != before), 60)
        assert ask() == (ALL, ALL)


@pytest.mark.whole
@pytest.mark.parametrize("count", [8, 32])
def test_as_many_silos_drop_out_as_may(tmp_path_factory, cohort, count):
    lost = count - threshold_of(count)
    with (
        PrivateBroker(directory=tmp_path_factory.mktemp("many") / "node") as broker,
        masked_cohort(broker, cohort, count, policy=MASKED) as silos,
    ):
        numbers = pack_arguments(row_sum, (fedbroker.data("numbers"),))
        rows = {name: number + 1 for number, name in enumerate(sorted(silos.silos))}
        with masked_context(silos, join=300.0) as context:
            assert context.invoke(row_sum, numbers) == sum(rows.values())
        with masked_context(silos, secure_sum="plaintext") as context, pytest.raises(PolicyRefusal):
            context.invoke(row_sum, numbers)
        with masked_context(silos, stragglers="drop", quorum=count - lost, stage=GIVES_UP) as context:
            assert context.invoke(row_sum, numbers) == sum(rows.values())
            for name in sorted(silos.silos)[-lost:]:
                silos.silos[name].kill()
            found = context.invoke(row_sum, numbers)
            took_part = context.last_session.participants
            assert len(took_part) == count - lost
            assert found == sum(rows[name] for name in took_part)


@tff.tensorflow.computation(tff.TensorType(np.int32, [None]))
def size(column):
    return tf.size(column)


@tff.federated_computation(tff.FederatedType(tff.TensorType(np.int32, [None]), tff.CLIENTS))
def row_sum(columns):
    return tff.federated_secure_sum(tff.federated_map(size, columns), 100)
