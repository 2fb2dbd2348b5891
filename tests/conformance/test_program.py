"""Federated programs: TFF's own platform and training loop over a cohort."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import CohortTimeout
from fedbroker.program import SiloDataSource
from tests.support import computations as c
from tests.support.conformance import feature
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.pages import blocks
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROW = collections.OrderedDict(x=tff.TensorType(np.float32, [None, 4]), y=tff.TensorType(np.float32, [None, 1]))
ROWS = 6  # at each silo


def on_a_cohort(silos, program, **options):
    """Run a coroutine function in TFF's platform over the cohort."""

    async def run():
        async with fedbroker.create_async_execution_context(
            silos.url, cohort=silos.cohort, **context_settings(**{"min_silos": 3} | options)
        ) as context:
            with tff.framework.get_context_stack().install(tff.program.NativeFederatedContext(context)):
                return await program()

    return asyncio.run(run())


@feature("program", "NativeFederatedContext", "over an asynchronous context; results are references")
def test_native_federated_context(same, silos):
    comp = tff.federated_computation(
        lambda x, s: collections.OrderedDict(total=tff.federated_sum(x), s=s, nest=[tff.federated_mean(x)]),
        c.AT_CLIENTS,
        c.AT_SERVER,
    )

    async def program():
        first = comp([1.0, 2.0], 3.0)
        second = comp([4.0, 5.0], first["total"])  # a reference as an argument, in place of its value
        return await asyncio.gather(*map(tff.program.materialize_value, (first, second)))

    first, second = on_a_cohort(silos, program)
    assert first == same(comp, [1.0, 2.0], 3.0)
    assert second == same(comp, [4.0, 5.0], 3.0)


@tff.federated_computation(tff.FederatedType(tff.SequenceType(ROW), tff.CLIENTS))
def counted(data):
    count = tff.tensorflow.computation(
        lambda ds: ds.reduce(0, lambda n, row: n + tf.size(row["y"])), tff.SequenceType(ROW)
    )
    one = tff.federated_value(1, tff.CLIENTS)
    return tff.federated_sum(tff.federated_map(count, data)), tff.federated_sum(one)


@feature("program", "SiloDataSource", "its iterator selects silos; its state is saved with the program's")
def test_silo_data_source(same, silos):
    iterator = SiloDataSource("rows", tff.SequenceType(ROW), batch_size=4, seed=3).iterator()

    async def program():
        return [await tff.program.materialize_value(counted(iterator.select(k))) for k in (1, 2, 3, None)]

    assert on_a_cohort(silos, program) == [(ROWS * k, k) for k in (1, 2, 3, 3)]
    assert same.run_ours(counted, iterator.select(2)) == (ROWS * 2, 2)


def test_random_selection_uses_every_silo(ours):
    iterator = SiloDataSource("rows", tff.SequenceType(ROW), batch_size=4, seed=5).iterator()
    draws = [iterator.select(1).draw.of(("ewr", "jfk", "lga")) for _ in range(30)]
    assert {name for draw in draws for name in draw} == {"ewr", "jfk", "lga"}


def test_selection_of_too_many_silos_is_an_error_in_time(silos):
    with fedbroker.create_sync_execution_context(
        silos.url, cohort=silos.cohort, min_silos=3, timeouts=fedbroker.Timeouts(join=1.0)
    ) as context:
        handle = SiloDataSource("rows", tff.SequenceType(ROW), batch_size=4).iterator().select(4)
        with pytest.raises(CohortTimeout, match="3 of 4 silos with data 'rows'"):
            context.invoke(counted, pack_arguments(counted, (handle,)))
        handle = SiloDataSource("nobody", tff.SequenceType(ROW), batch_size=4).iterator().select(1)
        with pytest.raises(CohortTimeout, match="0 of 1 silo with data 'nobody'"):
            context.invoke(counted, pack_arguments(counted, (handle,)))


@contextlib.contextmanager
def started(program: Path, silos, directory: Path, rounds: int):
    """Start the program as a process; kill it at the end of the block."""
    directory.mkdir(exist_ok=True)
    arguments = [silos.url, silos.cohort, str(directory), str(rounds)]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, str(program), *arguments], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(process: subprocess.Popen, directory: Path) -> None:
    assert process.wait(PROCESS_SECONDS) == 0, (directory / "log").read_text()[-3000:]


def metrics(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@feature("program", "learning.programs.train_model", "resumes after the coordinator was killed")
def test_train_model_resumes_after_the_coordinator_is_killed(same, silos, tmp_path):
    rounds = 4
    (page,) = blocks("docs/programs.md", "python")
    program, straight, killed = tmp_path / "program.py", tmp_path / "straight", tmp_path / "killed"
    program.write_text(page)
    with started(program, silos, straight, rounds) as uninterrupted:
        with started(program, silos, killed, 1000):
            # The first saved state precedes all rounds, the third follows two rounds.
            wait_until(lambda: len(list((killed / "state").glob("program_state_*"))) >= 3, 240)
        done = len(metrics(killed)) if (killed / "metrics.csv").exists() else 0
        assert done < rounds, "it was killed too late for this test to show anything"
        with started(program, silos, killed, rounds) as process:
            finish(process, killed)
        finish(uninterrupted, straight)
    assert metrics(killed) == metrics(straight)
    assert [row["round"] for row in metrics(killed)] == [str(n) for n in range(1, rounds + 1)]
    losses = [float(row["model_metrics/loss"]) for row in metrics(killed)]
    assert losses[-1] < losses[0]
    same.note = "runs unmodified"
    same.barriers.append(1)
