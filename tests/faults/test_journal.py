"""A killed coordinator: with a journal the next one resumes its session, without one it starts again."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

from fedbroker.errors import ConfigError
from fedbroker.session.journal import Journal
from tests.faults.harness import COHORT, VALUES
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROGRAM = """
import sys
import fedbroker
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

url, cohort, journal = sys.argv[1:]
COLUMN = tff.TensorType(np.float32, [None])
VALUES = tff.FederatedType(COLUMN, tff.CLIENTS)

@tff.tensorflow.computation(COLUMN)
def add(column):
    return tf.reduce_sum(column)

@tff.tensorflow.computation
def noise():
    return tf.random.uniform([])

@tff.tensorflow.computation(np.float32, np.float32)
def scaled(one, two):
    return one + 0 * two

@tff.federated_computation(VALUES)
def twice(values):
    added = tff.federated_map(add, values)
    first = tff.federated_sum(added)
    down = tff.federated_broadcast(tff.federated_map(scaled, (first, tff.federated_eval(noise, tff.SERVER))))
    return first, tff.federated_sum(tff.federated_map(scaled, (added, down)))

with fedbroker.set_sync_execution_context(
    url, cohort=cohort, min_silos=3,
    timeouts=fedbroker.Timeouts(stage=300.0), options=fedbroker.Options(journal=journal or None),
    on_event=lambda event: print("event", event.name, event.stage, flush=True),
) as context:
    first, second = twice(fedbroker.data("numbers"))
    print("result", float(first), float(second), *context.last_session.participants, flush=True)
"""


class Program:
    """The user's program as a process that can be killed."""

    def __init__(self, bench, directory, journal):
        self.log = directory / "program.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, bench.broker.url, COHORT, str(journal or "")], stdout=log, stderr=log
            )

    def said(self, line):
        return any(one.startswith(line) for one in self.log.read_text().splitlines())

    def result(self):
        assert self.process.wait(PROCESS_SECONDS) == 0, self.log.read_text()[-2000:]
        return [line for line in self.log.read_text().splitlines() if line.startswith("result")]

    def kill(self):
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def reads(bench):
    before = {name: silo.reads for name, silo in bench.silos.items()}
    return lambda: {name: silo.reads - before[name] for name, silo in bench.silos.items()}


ONCE = dict.fromkeys(VALUES, 1)


@contextlib.contextmanager
def held(silo):
    silo.hold()
    try:
        yield
    finally:
        silo.release()


def test_restarted_coordinator_resumes_and_no_silo_computes_twice(bench, tmp_path, reads):
    journal = tmp_path / "journal"
    with held(bench.victim):
        first = Program(bench, tmp_path, journal)
        wait_until(
            lambda: reads() == ONCE and first.said("event silo_answered"), 60, "two silos have answered, one computes"
        )
        first.kill()
        second = Program(bench, tmp_path, journal)
        wait_until(lambda: second.said("event session_resumed"), 60, "the session was found")
    assert second.result() == ["result 111.0 111.0 bos ewr jfk"]
    assert reads() == ONCE
    assert sorted(path.name for path in journal.iterdir()) == ["key", "lock"]


@pytest.mark.whole
def test_coordinator_killed_in_the_second_stage_resumes_there(bench, tmp_path, reads):
    journal = tmp_path / "journal"
    first = Program(bench, tmp_path, journal)
    wait_until(lambda: first.said("event stage_started 1"), 60, "the second stage")
    first.kill()
    if first.said("result"):
        pytest.fail("it was done before it could be killed")
    second = Program(bench, tmp_path, journal)
    assert second.result() == ["result 111.0 111.0 bos ewr jfk"]
    assert reads() == ONCE


def test_next_coordinator_works_immediately_without_a_journal(bench, tmp_path, reads):
    with held(bench.victim):
        first = Program(bench, tmp_path, None)
        wait_until(lambda: reads() == ONCE, 60, "every silo has computed or does so")
        first.kill()
        bench.victim.release()
        assert Program(bench, tmp_path, None).result() == ["result 111.0 111.0 bos ewr jfk"]
    assert reads() == dict.fromkeys(VALUES, 2)


def test_journal_belongs_to_one_coordinator(tmp_path):
    journal = Journal(tmp_path / "j")
    with pytest.raises(ConfigError, match="another coordinator"):
        Journal(tmp_path / "j")
    key = journal.key
    journal.close()
    again = Journal(tmp_path / "j")
    assert again.key == key
    again.close()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        Journal(tmp_path / "file")
