"""Constant data are sent once: computations to each silo, and each context makes a plan once."""

from __future__ import annotations

import asyncio

import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.transport import topology
from tests.support import computations as c
from tests.support.local_tff import pack_arguments
from tests.support.message_counts import byte_counter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WIDTH = 340
PARAMETERS = 4 * WIDTH + WIDTH + WIDTH + 1


def model():
    layers = [
        tf.keras.layers.InputLayer(input_shape=(4,)),
        tf.keras.layers.Dense(WIDTH, kernel_initializer="ones"),
        tf.keras.layers.Dense(1, kernel_initializer="ones"),
    ]
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential(layers), input_spec=c.BATCHES, loss=tf.keras.losses.MeanSquaredError()
    )


def test_later_rounds_send_only_the_weights(ours, silos):
    """Run FedAvg's ``next`` on a model of 8 KB; the computation is more than ten times as large."""
    process = tff.learning.algorithms.build_weighted_fed_avg(model, tff.learning.optimizers.build_sgdm(1e-9))
    weights = PARAMETERS * 4
    assert 8000 < weights < 8400

    async def rounds():
        sent, state = [], await asyncio.to_thread(ours.invoke, process.initialize, None)
        keys = [topology.blobs_key(silos.cohort, silo) for silo in (None, *silos.silos)]
        bindings = [(topology.WORK.name, "#"), *((topology.BLOBS.name, key) for key in keys)]
        async with byte_counter(silos.url, *bindings) as weight:
            for _ in range(3):
                argument = pack_arguments(process.next, (state, fedbroker.data("rows", batch_size=3)))
                state = (await asyncio.to_thread(ours.invoke, process.next, argument)).state
                sent.append(await weight())
        return sent

    first, second, third = asyncio.run(rounds())
    for later in (second, third):
        # The weights, once for each silo with its work item; the rest are ops and small values.
        assert later < len(silos.silos) * (weights + 4096)
    assert first > 10 * second / len(silos.silos)


def test_each_context_makes_a_plan_once(ours, ours_in_plaintext):
    plan = ours.explain(c.two_barriers).plan
    ours.invoke(c.two_barriers, pack_arguments(c.two_barriers, ([1.0, 2.0], 1.0)))
    assert ours.explain(c.two_barriers).plan is plan
    assert ours_in_plaintext.explain(c.two_barriers).plan is not plan


def test_digests_of_a_computation_do_not_depend_on_the_context(ours, ours_in_plaintext):
    stages = [
        [stage.computation for stage in context.explain(c.two_barriers).plan.stages]
        for context in (ours, ours_in_plaintext)
    ]
    assert stages[0] == stages[1]
