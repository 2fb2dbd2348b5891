"""TFF's own computations at a silo: they run, fail with the runtime's message, and end at their timeout."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.native import compiler

from fedbroker.runtime.protos import executor_pb2
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Call, Compute, Data, Failed, Value
from tests.support.transports import eventually
from tests.support.worker import ROWS, call_ops, load_settings, new_runtimes, running_silo

MEMBER = tff.StructType([tff.TensorType(np.float32, [None])])


def serialized(computation):
    """Return a TFF computation as a blob."""
    compiled = compiler.desugar_and_transform_to_native(computation)
    proto = tff.framework.ConcreteComputation.get_proto(compiled)
    return executor_pb2.Value(computation=proto).SerializeToString(deterministic=True)


def over_clients(function):
    """Return the sum over the clients of a function of their column."""
    local = tff.tensorflow.computation(lambda struct: function(struct[0]), MEMBER)

    @tff.federated_computation(tff.FederatedType(MEMBER, tff.CLIENTS))
    def run(values):
        return tff.federated_sum(tff.federated_map(local, values))

    return serialized(run)


def fails(x):
    with tf.control_dependencies([tf.debugging.assert_negative(x, message="these are no delays")]):
        return tf.reduce_sum(x)


def spins(x):
    return tf.while_loop(lambda total: total < np.inf, lambda total: total * 1.0, [tf.reduce_sum(x)])[0]


@pytest.fixture(scope="module")
def functions():
    return {"sums": over_clients(tf.reduce_sum), "fails": over_clients(fails), "spins": over_clients(spins)}


@pytest.fixture
def ours():
    """Return the C++ runtimes of the silo in this process."""
    return new_runtimes()


@pytest.fixture
async def both(ours, broker, cohort, tmp_path):
    sources = {"rows": {"query": ROWS}, "words": {"query": "select 'é' || i as x from range(3) t(i)"}}
    async with running_silo(load_settings(tmp_path, broker.url, cohort, sources)) as pair:
        yield pair


async def test_computation_runs_over_the_silos_data(both, functions):
    _, client = both
    (output,) = await client.outputs(client.item(call_ops(functions["sums"])), [functions["sums"]])
    value = executor_pb2.Value.FromString(output)
    assert value.federated.value[0].array.float32_list.value == [sum(range(100))]


async def test_text_columns_are_strings(both):
    _, client = both
    member = tff.StructType([tff.TensorType(np.str_, [None])])
    longest = tff.tensorflow.computation(
        lambda struct: tf.reduce_max(tf.strings.length(struct[0], "UTF8_CHAR")), member
    )

    @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
    def run(values):
        return tff.federated_sum(tff.federated_map(longest, values))

    function = serialized(run)
    (output,) = await client.outputs(client.item(call_ops(function, "words", [("x", "str")])), [function])
    assert executor_pb2.Value.FromString(output).federated.value[0].array.int32_list.value == [2]


async def test_failed_computation_has_the_runtimes_message_in_one_line(both, functions):
    _, client = both
    kind, line = await client.refused(client.item(call_ops(functions["fails"])), [functions["fails"]])
    assert kind == "computation"
    assert "these are no delays" in line


async def test_endless_computation_ends_at_its_timeout_and_the_next_one_runs(both, functions, ours):
    _, client = both
    item = client.item(call_ops(functions["spins"]), seconds=1.0)
    kind, line = await client.refused(item, [functions["spins"]])
    assert (kind, "it was not done within 1 s" in line) == ("timeout", True)
    assert len(await client.outputs(client.item(call_ops(functions["sums"])), [functions["sums"]])) == 1
    # A computation that cannot be stopped ended with its runtime.
    await eventually(lambda: len(ours()) == 1)
    assert ours()[0].cpu_percent(0.5) < 50


async def test_timeout_of_one_computation_does_not_end_others(both, functions, ours):
    _, client = both
    blobs = list(functions.values())
    first = client.item(call_ops(functions["sums"]), session="other", last=False)
    (before,) = await client.outputs(first, blobs)
    await client.refused(client.item(call_ops(functions["spins"]), seconds=0.5))
    (again,) = await client.outputs(client.item([Compute(3)], session="other", stage=1))
    assert before == again
    await eventually(lambda: len(ours()) == 1)


async def test_ended_session_stops_its_computation(both, functions, ours):
    service, client = both
    item = client.item(call_ops(functions["spins"]), session="gone")
    asking = asyncio.create_task(client.send(item, [functions["spins"]]))
    await eventually(lambda: ours()[0].cpu_percent(0.05) > 30)
    await client.transport.end_session(client.silo, "gone")
    await eventually(lambda: not service.statistics().running)
    asking.cancel()
    await client.check()
    await eventually(lambda: len(ours()) == 1)
    assert ours()[0].cpu_percent(0.5) < 50


async def test_work_that_kills_its_runtime_each_time_fails_and_can_be_retried(both, functions, ours):
    _, client = both
    blobs = list(functions.values())
    program = [Data(1, "rows", (("x", "float32"),)), Value(2, digest_of(functions["spins"])), Call(3, 2, 1), Compute(3)]
    asking = asyncio.create_task(client.send(client.item(program, session="s"), blobs))

    def killed():
        for runtime in ours():
            with contextlib.suppress(psutil.Error):
                if runtime.cpu_times().user > 0.5:  # its start takes a fraction of that
                    runtime.kill()
        return asking.done()

    await eventually(killed, 25)
    reply = await asking
    assert isinstance(reply, Failed)
    assert reply.error_type == "lost"
    assert len(await client.outputs(client.item(call_ops(functions["sums"]), session="s"), blobs)) == 1
