"""The client of the runtime's service: values, calls, failures with the runtime's message, large values."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from benchmarks.relay import array as large_value
from fedbroker.errors import ComputationFailed, RuntimeUnavailable
from fedbroker.runtime import Runtime
from fedbroker.runtime.protos import array_pb2, data_type_pb2, executor_pb2

FLOAT = tff.TensorType(np.float32)
PROMPT_SECONDS = 3.0


def array(*numbers):
    packed = array_pb2.Array(dtype=data_type_pb2.DT_FLOAT, shape=array_pb2.ArrayShape(dim=[len(numbers)]))
    packed.float32_list.value.extend(numbers)
    return executor_pb2.Value(array=packed).SerializeToString()


def scalar(number):
    packed = array_pb2.Array(dtype=data_type_pb2.DT_FLOAT, shape=array_pb2.ArrayShape())
    packed.float32_list.value.append(number)
    return executor_pb2.Value(array=packed).SerializeToString()


def numbers(serialized):
    return list(executor_pb2.Value.FromString(serialized).array.float32_list.value)


def function(python, *types):
    """Return a TensorFlow computation as a serialized value."""
    comp = tff.tensorflow.computation(python, *types)
    return executor_pb2.Value(computation=tff.framework.serialize_computation(comp)).SerializeToString()


@pytest.fixture(scope="module")
def add():
    return function(lambda x, y: x + y, FLOAT, FLOAT)


@pytest.fixture(scope="module")
def endless():
    return function(lambda x: tf.while_loop(lambda _: True, lambda y: (y + 1,), (x,))[0], FLOAT)


@pytest.fixture(scope="module")
def refusal():
    """Return a function that fails with a text of a given length."""

    def fail(words):
        def say_no():
            with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), [words])]):
                return tf.constant(1.0)

        return function(say_no)

    return fail


@pytest.fixture
async def own(own_runtime):
    """Start a runtime and an executor in this test's own event loop."""
    return own_runtime, await own_runtime.executor(2)


async def test_values_structs_selections_and_calls(own, add):
    _, executor = own
    pair = await executor.struct([("x", await executor.value(scalar(1.0))), ("", await executor.value(scalar(2.0)))])
    result = await executor.call(await executor.value(add), pair)
    assert numbers(await executor.compute(result)) == [3.0]
    assert numbers(await executor.compute(await executor.select(pair, 1))) == [2.0]
    struct = executor_pb2.Value.FromString(await executor.compute(pair)).struct
    assert [numbers(element.value.SerializeToString()) for element in struct.element] == [[1.0], [2.0]]


async def test_an_empty_struct_and_a_call_without_argument(own):
    _, executor = own
    empty = executor_pb2.Value.FromString(await executor.compute(await executor.struct([])))
    assert empty.WhichOneof("value") == "struct"
    two = await executor.call(await executor.value(function(lambda: tf.constant(2.0))), None)
    assert numbers(await executor.compute(two)) == [2.0]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_buffer_type_is_accepted_as_a_value(own, kind):
    _, executor = own
    assert numbers(await executor.compute(await executor.value(kind(array(1.0, 2.0))))) == [1.0, 2.0]


async def test_executor_has_the_requested_number_of_clients(own):
    runtime, executor = own
    value = executor_pb2.Value()
    value.federated.type.placement.value.uri = "clients"
    value.federated.type.member.tensor.dtype = data_type_pb2.DT_FLOAT
    for number in (1.0, 2.0):
        value.federated.value.add().ParseFromString(scalar(number))
    assert await executor.compute(await executor.value(value.SerializeToString()))
    other = await runtime.executor(3)
    with pytest.raises(ComputationFailed, match="INVALID_ARGUMENT"):
        await other.value(value.SerializeToString())


async def test_failed_computation_raises_the_runtimes_message_in_one_line(own, refusal):
    _, executor = own
    with pytest.raises(ComputationFailed, match="these are my words") as caught:
        await executor.compute(await executor.call(await executor.value(refusal("these are my words")), None))
    assert caught.value.status == "INTERNAL"
    assert "\n" not in str(caught.value)


async def test_error_message_above_grpcs_default_limit_is_preserved(own, refusal):
    _, executor = own
    words = "no " * 20_000
    with pytest.raises(ComputationFailed) as caught:
        await executor.compute(await executor.call(await executor.value(refusal(words)), None))
    assert caught.value.detail.count("no ") >= 20_000


async def test_executor_works_after_a_failure(own, add, refusal):
    _, executor = own
    with pytest.raises(ComputationFailed):
        await executor.compute(await executor.call(await executor.value(refusal("no")), None))
    with pytest.raises(ComputationFailed):
        await executor.value(b"not a value")
    with pytest.raises(ComputationFailed):
        # The runtime reports it at once or with the next computation.
        await executor.compute(await executor.select(await executor.value(scalar(1.0)), 7))
    assert numbers(await executor.compute(await executor.value(scalar(4.0)))) == [4.0]


async def test_dispose_removes_only_its_value(own):
    _, executor = own
    first, second = await executor.value(scalar(1.0)), await executor.value(scalar(2.0))
    await executor.dispose([first])
    await executor.dispose([])
    with pytest.raises(ComputationFailed):
        await executor.compute(first)
    assert numbers(await executor.compute(second)) == [2.0]


async def test_executor_can_be_closed_twice_and_then_refuses_requests(own):
    runtime, executor = own
    ref = await executor.value(scalar(1.0))
    await executor.close()
    await executor.close()
    with pytest.raises(RuntimeUnavailable):
        await executor.compute(ref)
    assert await (await runtime.executor(1)).value(scalar(1.0))
    assert runtime.restarts == 0


async def test_cancelled_request_does_not_block_others(own, endless):
    runtime, executor = own
    ref = await executor.call(await executor.value(endless), await executor.value(scalar(0.0)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await executor.compute(ref)
    async with asyncio.timeout(PROMPT_SECONDS):
        await executor.close()
        other = await runtime.executor(1)
        assert numbers(await other.compute(await other.value(scalar(2.0)))) == [2.0]


async def test_close_fails_a_running_request_immediately(own, endless):
    runtime, executor = own
    ref = await executor.call(await executor.value(endless), await executor.value(scalar(0.0)))
    request = asyncio.create_task(executor.compute(ref))
    await asyncio.wait([request], timeout=0.2)
    async with asyncio.timeout(PROMPT_SECONDS):
        await runtime.close()
        with pytest.raises(RuntimeUnavailable):
            await request
    with pytest.raises(RuntimeUnavailable, match="closed"):
        await executor.value(scalar(1.0))


async def test_requests_run_concurrently(own, endless, add):
    _, executor = own
    busy = asyncio.create_task(
        executor.compute(await executor.call(await executor.value(endless), await executor.value(scalar(0.0))))
    )
    pair = await executor.struct([("", await executor.value(scalar(1.0))), ("", await executor.value(scalar(2.0)))])
    async with asyncio.timeout(PROMPT_SECONDS):
        assert numbers(await executor.compute(await executor.call(await executor.value(add), pair))) == [3.0]
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy


def test_event_loops_in_several_threads_have_their_own_runtimes(caplog):
    async def use():
        runtime = Runtime()
        try:
            await runtime.start()
            executor = await runtime.executor(1)
            for number in range(100):
                assert numbers(await executor.compute(await executor.value(scalar(number)))) == [number]
        finally:
            await runtime.close()

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(asyncio.run, use()) for _ in range(3)]:
            done.result()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_large_value_is_unchanged_in_both_directions(own):
    _, executor = own
    sent = large_value(mib=64)
    assert await executor.compute(await executor.value(sent)) == sent
