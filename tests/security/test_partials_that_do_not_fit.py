"""A silo replies with a partial whose shape fits its type but not the others' partials: the error names the silo."""

from __future__ import annotations

from contextlib import AsyncExitStack

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.context.values.codec import federate, structure, write
from fedbroker.deadline import Deadline
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.transports import silo_transport

pytestmark = [pytest.mark.broker, pytest.mark.runtime]

TABLE = tff.TensorType(np.float32, [None, None])


@tff.tensorflow.computation(TABLE, TABLE)
def join(left, right):
    return tf.concat([left, right], 0)


@tff.tensorflow.computation
def nothing():
    return tf.zeros([0, 3])


@tff.tensorflow.computation(TABLE)
def same(whole):
    return whole


@tff.federated_computation(tff.FederatedType(TABLE, tff.CLIENTS))
def joined(tables):
    return tff.federated_aggregate(tables, nothing(), join, join, same)


def answer_of(*shape):
    """Return a silo's reply to its part of that computation, with a partial of that shape."""
    member = b"".join(write(np.zeros(shape, np.float32), TABLE))
    return b"".join(map(bytes, structure([federate([member], tff.FederatedType(TABLE, tff.SERVER))])))


@pytest.mark.parametrize("shape", [(2, 4), (0, 2**40)])
async def test_error_of_an_unmergeable_partial_names_its_silo(broker, cohort, shape):
    shapes = {"bos": (2, 3), "ewr": (2, 3), "jfk": shape}
    async with AsyncExitStack() as stack:
        for name, of in shapes.items():
            end = await stack.enter_async_context(silo_transport(broker.url, cohort, name))

            async def answer(item, end=end, of=of):
                await end.send(item, [answer_of(*of)], Deadline.after(item.timeout))

            end.answer = answer
        context = await stack.enter_async_context(
            fedbroker.create_async_execution_context(
                broker.url, cohort=cohort, min_silos=3, **context_settings(stage=30, retries=0)
            )
        )
        with pytest.raises(
            fedbroker.errors.ComputationFailed, match="while merging the partial of silo 'jfk'"
        ) as caught:
            await context.invoke(joined, pack_arguments(joined, [[np.zeros([1, 3], np.float32)] * 3]))
    assert (caught.value.silo, caught.value.stage) == ("jfk", 1)
    assert "leave that silo out" in str(caught.value)
