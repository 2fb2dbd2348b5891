"""A coordinator killed in a masked stage: the next one forms the same sum over the same silos, and none reads twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fedbroker.broker import PrivateBroker
from tests.support.gated_source import block_reads, gated_source, read_count, unblock_reads
from tests.support.masked_cohort import MASKED, masked_cohort
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

VALUES = {"bos": 1, "ewr": 10, "jfk": 100, "lga": 1000}
SLOW = "lga"

PROGRAM = """
import sys
import fedbroker
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

url, cohort, keys, journal, stragglers = sys.argv[1:]
COLUMN = tff.TensorType(np.float32, [None])

@tff.tensorflow.computation(COLUMN)
def whole(column):
    return tf.cast(tf.reduce_sum(column), tf.int32)

@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def summed(columns):
    return tff.federated_secure_sum(tff.federated_map(whole, columns), 10_000)

with fedbroker.set_sync_execution_context(
    url, cohort=cohort, min_silos=4, keys=keys, stragglers=stragglers,
    timeouts=fedbroker.Timeouts(stage=300.0), options=fedbroker.Options(journal=journal),
    on_event=lambda event: print("event", event.name, event.silo, flush=True),
) as context:
    print("result", int(summed(fedbroker.data("numbers"))), *context.last_session.participants, flush=True)
"""


@pytest.fixture(scope="module")
def silos(tmp_path_factory):
    directory = tmp_path_factory.mktemp("masked-journal")
    gated_source(directory / "plugins")
    sources = {name: {"numbers": {"source": "gated", "value": float(value)}} for name, value in VALUES.items()}
    with pytest.MonkeyPatch.context() as patch, PrivateBroker(directory=directory / "node") as broker:
        patch.setenv("PYTHONPATH", str(directory / "plugins"), prepend=os.pathsep)
        with masked_cohort(broker, "masked-journal", sources, policy=MASKED, directory=directory) as cohort:
            yield cohort


class Program:
    """The user's program as a process that can be killed."""

    def __init__(self, silos, directory, stragglers):
        self.log = directory / "program.log"
        before = self.log.stat().st_size if self.log.exists() else 0
        self.lines = lambda: self.log.read_text()[before:].splitlines()
        arguments = [silos.url, silos.cohort, str(silos.keys), str(directory / "journal"), stragglers]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=log, stderr=log)

    def events(self, name):
        return [line.split()[-1] for line in self.lines() if line.startswith(f"event {name}")]

    def result(self):
        assert self.process.wait(PROCESS_SECONDS) == 0, self.log.read_text()[-2000:]
        return [line for line in self.lines() if line.startswith("result")]

    def kill(self):
        self.process.kill()
        self.process.wait(10)


@contextmanager
def stopped(silos, *names):
    for name in names:
        os.kill(silos.silos[name].pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for name in names:
            os.kill(silos.silos[name].pid, signal.SIGCONT)


@pytest.fixture
def slow(silos):
    """Hold back the reply of one silo; return its directory."""
    directory = silos.silos[SLOW].directory
    block_reads(directory)
    yield directory
    unblock_reads(directory)


@pytest.fixture
def reads(silos):
    count = lambda: {name: read_count(silos.silos[name].directory) for name in VALUES}  # noqa: E731
    before = count()
    return lambda: {name: number - before[name] for name, number in count().items()}


@pytest.mark.parametrize("stragglers", ["fail", "drop"])
def test_coordinator_killed_before_the_last_reply(silos, slow, reads, tmp_path, stragglers):
    first = Program(silos, tmp_path, stragglers)
    wait_until(lambda: len(first.events("silo_answered")) == 3, 60, "three silos have answered, one computes")
    first.kill()
    second = Program(silos, tmp_path, stragglers)
    wait_until(lambda: second.events("session_resumed"), 60, "the session was found")
    unblock_reads(slow)
    assert second.result() == ["result 1111 bos ewr jfk lga"]
    assert reads() == dict.fromkeys(VALUES, 1)


def test_coordinator_killed_while_it_removes_masks(silos, slow, reads, tmp_path):
    first = Program(silos, tmp_path, "drop")
    wait_until(lambda: len(first.events("silo_answered")) == 3, 60, "three silos have answered, one computes")
    with stopped(silos, "bos", "ewr"):  # two are left, three must sign
        unblock_reads(slow)
        wait_until(lambda: SLOW in first.events("silo_answered"), 60, "the last silo has answered")
        first.kill()
        second = Program(silos, tmp_path, "drop")
        wait_until(lambda: len(second.events("silo_answered")) == 4, 60, "the next coordinator has all replies")
    assert second.result() == ["result 1111 bos ewr jfk lga"]
    assert second.events("session_resumed")
    assert reads() == dict.fromkeys(VALUES, 1)
