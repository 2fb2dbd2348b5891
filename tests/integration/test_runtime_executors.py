"""Executors of the real C++ runtime are reused between sessions without their values."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2

from fedbroker.context.values.codec import serialize
from fedbroker.errors import ComputationFailed, RuntimeUnavailable
from fedbroker.plan import make_plan
from fedbroker.runtime import runtime as runtime_module
from fedbroker.runtime.service import Service
from tests.support.transports import eventually

AT_CLIENTS = tff.FederatedType(np.float32, tff.CLIENTS)


@pytest.fixture
def asked(monkeypatch):
    """Count the requests to the runtime, by name."""
    requests = []
    call = Service.call

    async def counted(self, method, request):
        requests.append(method)
        return await call(self, method, request)

    monkeypatch.setattr(Service, "call", counted)
    return requests


def number(value):
    return serialize(np.float32(value), tff.TensorType(np.float32))


async def use(own_runtime, clients=1):
    executor = await own_runtime.executor(clients)
    await executor.value(number(1.0))
    await executor.close()


async def test_executor_is_reused_by_the_next_lease(own_runtime, asked):
    for _ in range(3):
        await use(own_runtime)
    assert asked.count("GetExecutor") == 1
    assert asked.count("Dispose") == 3
    await use(own_runtime, clients=2)
    assert asked.count("GetExecutor") == 2


async def test_closed_lease_disposes_only_its_own_values(own_runtime):
    first, second = await own_runtime.executor(1), await own_runtime.executor(1)
    mine, theirs = await first.value(number(1.0)), await second.value(number(2.0))
    assert await second.compute(mine)  # one executor, to the runtime
    await first.close()
    with pytest.raises(ComputationFailed, match="not found"):
        await second.compute(mine)
    assert await second.compute(theirs)
    with pytest.raises(RuntimeUnavailable, match="closed"):
        await first.value(number(3.0))


async def test_random_numbers_continue_as_on_tffs_contexts(own_runtime):
    @tff.tensorflow.computation(np.float32)
    def drawn(number):
        return number + tf.random.uniform([], seed=1)

    @tff.federated_computation(AT_CLIENTS)
    def draw(numbers):
        return tff.federated_map(drawn, numbers)

    context = tff.backends.native.create_sync_local_cpp_execution_context()
    expected = [context.invoke(draw, [np.float32(0.0)])[0] for _ in range(3)]
    (stage,) = make_plan(draw).client_stages
    found = []
    for _ in range(3):
        executor = await own_runtime.executor(1)
        argument = await executor.struct([("", await executor.value(serialize([np.float32(0.0)], AT_CLIENTS)))])
        result = await executor.call(await executor.value(stage.computation), argument)
        content = executor_pb2.Value.FromString(await executor.compute(await executor.select(result, 0)))
        found.append(content.federated.value[0].array.float32_list.value[0])
        await executor.close()
    assert len(set(found)) == 3
    assert found == pytest.approx(expected)


@pytest.fixture(scope="module")
def triple():
    comp = tff.tensorflow.computation(lambda x: 3.0 * x, tff.TensorType(np.float32))
    return executor_pb2.Value(computation=tff.framework.serialize_computation(comp)).SerializeToString()


async def tripled(executor, triple, value, name="triple"):
    ref = await executor.call(await executor.function(name, triple), await executor.value(number(value)))
    return executor_pb2.Value.FromString(await executor.compute(ref)).array.float32_list.value[0]


async def test_function_is_created_once_for_all_leases(own_runtime, asked, triple):
    for value in (1.0, 2.0):
        executor = await own_runtime.executor(1)
        assert await tripled(executor, triple, value) == await tripled(executor, triple, value) == 3.0 * value
        await executor.close()
    assert asked.count("CreateValue") == 1 + 4
    other = await own_runtime.executor(2)
    assert await tripled(other, triple, 3.0) == 9.0
    assert asked.count("CreateValue") == 1 + 4 + 2


async def test_function_survives_dispose_and_close(own_runtime, triple):
    first, second = await own_runtime.executor(1), await own_runtime.executor(1)
    for executor in (first, second):
        assert await tripled(executor, triple, 1.0) == 3.0
    await first.dispose([await first.function("triple", triple)])
    assert await tripled(first, triple, 2.0) == 6.0
    await first.close()
    assert await tripled(second, triple, 3.0) == 9.0


async def test_function_created_concurrently_is_kept_once(own_runtime, asked, triple):
    both = [await own_runtime.executor(1) for _ in range(2)]
    assert await asyncio.gather(*(tripled(executor, triple, 1.0) for executor in both)) == [3.0, 3.0]
    for executor in both:
        await executor.close()
    made = asked.count("CreateValue")
    executor = await own_runtime.executor(1)
    assert await tripled(executor, triple, 2.0) == 6.0
    assert asked.count("CreateValue") == made + 1


async def test_functions_beyond_the_limit_are_disposed_after_use(own_runtime, asked, triple, monkeypatch):
    first, second = await own_runtime.executor(1), await own_runtime.executor(1)
    monkeypatch.setattr(first._shared.functions, "_max_bytes", len(triple))
    mine = await first.function("mine", triple)
    theirs = await second.function("theirs", triple)
    await first.close()
    with pytest.raises(ComputationFailed, match="not found"):
        await second.compute(mine)
    assert await second.call(theirs, await second.value(number(1.0)))
    await second.close()
    made = asked.count("CreateValue")
    third = await own_runtime.executor(1)
    assert await third.function("theirs", triple) == theirs
    assert asked.count("CreateValue") == made


async def test_unused_executor_is_closed_after_a_while(own_runtime, asked, monkeypatch):
    monkeypatch.setattr(runtime_module, "IDLE_SECONDS", 0.05)
    await use(own_runtime)
    await eventually(lambda: "DisposeExecutor" in asked)
    await use(own_runtime)
    assert asked.count("GetExecutor") == 2


async def test_only_the_most_recently_used_executors_are_kept(own_runtime, asked):
    for clients in range(1, runtime_module.MAX_IDLE + 2):
        await use(own_runtime, clients)
    await eventually(lambda: asked.count("DisposeExecutor") == 1)
    before = asked.count("GetExecutor")
    await use(own_runtime, 2)
    assert asked.count("GetExecutor") == before
    await use(own_runtime, 1)
    assert asked.count("GetExecutor") == before + 1


async def test_executor_with_a_cancelled_request_is_not_reused(own_runtime, asked):
    executor = await own_runtime.executor(1)
    request = asyncio.create_task(executor.value(number(1.0)))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await executor.close()
    await eventually(lambda: "DisposeExecutor" in asked)
    await use(own_runtime)
    assert asked.count("GetExecutor") == 2
