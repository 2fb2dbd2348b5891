"""Unsupported computations raise a plain error before anything is sent."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import tensorflow_federated as tff

from fedbroker.errors import PlanError
from fedbroker.transport import topology
from tests.support import computations as c
from tests.support.conformance import feature
from tests.support.local_tff import pack_arguments
from tests.support.message_counts import message_counter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F = np.float32
add = tff.tensorflow.computation(lambda a, b: a + b, (F, F))
times = tff.tensorflow.computation(lambda a, b: a * b, (F, F))
jax = tff.jax.computation(lambda x: x * 2, F)


@tff.federated_computation(c.AT_CLIENTS)
def with_jax(x):
    return tff.federated_sum(tff.federated_map(jax, x))


@feature(
    "refused", "tff.jax.computation", "TFF 0.87's runtime does not run XLA; write it with tff.tensorflow.computation"
)
def test_jax(same):
    same.refuses(PlanError, r"with_jax: tff\.jax\.computation cannot be planned", with_jax, [1.0])
    same.refuses(PlanError, r"tff\.jax\.computation cannot be planned", jax, 1.0)
    with pytest.raises(grpc.RpcError):
        same.run_theirs(with_jax, [1.0])


@feature("refused", "functions that capture values from outside of them", "TFF's own context fails, too")
def test_captures(same):
    @tff.federated_computation(c.AT_CLIENTS, F)
    def scaled(x, factor):
        @tff.federated_computation(F)
        def report(total):
            return times(total, factor)

        return tff.federated_aggregate(x, 0.0, add, add, report)

    same.refuses(PlanError, "a function captures a value of type float32", scaled, [1.0], 2.0)
    with pytest.raises(Exception, match="NOT_FOUND"):
        same.run_theirs(scaled, [1.0], 2.0)


@feature("refused", "a function as a result that captures an argument", "TFF's own context fails, too")
def test_closures(same):
    @tff.federated_computation(F)
    def closure(value):
        return tff.federated_computation(lambda x: add(x, value), F)

    same.refuses(PlanError, "a function captures a value of type float32", closure, 1.0)
    with pytest.raises(NotImplementedError):
        same.run_theirs(closure, 1.0)


def test_refused_computation_sends_nothing(ours, silos):
    async def scenario():
        exchanges = (topology.WORK.name, topology.REPLY.name)
        async with message_counter(silos.url, *exchanges) as count:
            with pytest.raises(PlanError):
                await asyncio.to_thread(ours.invoke, with_jax, pack_arguments(with_jax, ([1.0],)))
            return await count()

    assert set(asyncio.run(scenario()).values()) == {0}
