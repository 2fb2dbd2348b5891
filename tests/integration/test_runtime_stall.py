"""A stalled runtime is ended at once; one that computes, is stopped or is idle is not."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psutil
import pytest

from fedbroker.errors import ComputationFailed, RuntimeFailure, RuntimeUnavailable
from fedbroker.runtime import Runtime, resources
from fedbroker.runtime.resources import StallWatch
from fedbroker.runtime.service import Service
from tests.support import bombs

MIB = 1 << 20
AT_ONCE = 2 * resources.STALL_SAMPLES * resources.WINDOW_SECONDS
"""Seconds to notice a stall on a machine that is busy with other tests."""


@pytest.fixture
async def runtime():
    one = Runtime(log=lambda _: None)
    await one.start()
    yield one
    await one.close()


@pytest.fixture
def impatient(monkeypatch):
    """Count a runtime as stalled after half a second without progress."""
    monkeypatch.setattr(resources, "WINDOW_SECONDS", 0.5 / resources.STALL_SAMPLES)


async def computed(runtime, function):
    """Return the result of a function."""
    executor = await runtime.executor(1)
    return await executor.compute(await executor.call(await executor.value(function), None))


@contextlib.asynccontextmanager
async def under_way(runtime, function):
    """Start a request for a function's result."""
    request = asyncio.create_task(computed(runtime, function))
    try:
        yield request
    finally:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)


async def test_graph_that_waits_forever_ends_its_runtime(runtime):
    other = await runtime.executor(1)
    async with under_way(runtime, bombs.waits()) as request, asyncio.timeout(AT_ONCE):
        with pytest.raises(ComputationFailed, match="made no progress") as failure:
            await request
    assert "raise runtime_memory_bytes" in failure.value.hint
    with pytest.raises(RuntimeUnavailable, match="made no progress") as lost:
        await other.struct([])
    assert lost.value.retryable
    await computed(runtime, bombs.one())
    assert runtime.restarts == 1


async def test_long_computation_is_not_a_stall(runtime, impatient):
    async with under_way(runtime, bombs.endless()) as request:
        await asyncio.wait([request], timeout=2.0)
        assert not request.done()
    assert runtime.restarts == 0


async def test_stopped_runtime_is_not_a_stall(runtime, impatient):
    executor = await runtime.executor(1)
    worker = psutil.Process(runtime.pid).children(recursive=True)[-1]
    worker.suspend()
    request = asyncio.create_task(executor.value(bombs.one()))
    await asyncio.wait([request], timeout=2.0)
    assert not request.done()
    worker.resume()
    await request
    assert runtime.restarts == 0


async def test_idle_runtime_is_not_a_stall(runtime, impatient):
    executor = await runtime.executor(1)
    ref = await executor.call(await executor.value(bombs.one()), None)
    await executor.compute(ref)
    idle = asyncio.get_running_loop().create_future()
    await asyncio.wait([idle], timeout=2.0)
    await executor.compute(ref)
    assert runtime.restarts == 0


async def test_runtime_that_answers_other_requests_is_not_a_stall(runtime, impatient):
    """Let a request wait for another one in the same runtime; the work item's own timeout still ends it."""
    executor = await runtime.executor(1)
    async with under_way(runtime, bombs.waits()) as request:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            await executor.struct([])
            await asyncio.wait([request], timeout=0.05)
        assert not request.done()
    assert runtime.restarts == 0


@pytest.mark.parametrize(
    ("how", "memory"),
    [
        ("killed by SIGABRT, last log lines:   } | } | ", True),  # as gRPC exits without memory
        ("killed by SIGABRT", True),
        ("killed by SIGABRT, last log lines: F tensor.cc:1 Check failed: dims() == 1", False),
        ("killed by SIGSEGV", False),
        ("killed by SIGTERM", False),
    ],
)
async def test_abort_without_output_is_reported_as_lack_of_memory(how, memory):
    async def ended(_: float) -> str:
        return how

    service = Service("unix:/nowhere", ended, lambda: None, StallWatch(0, lambda: None))
    try:
        with pytest.raises(RuntimeUnavailable, match="is gone") as gone:
            await service.call("CreateCall", b"")
    finally:
        await service.close()
    assert ("runtime_memory_bytes" in gone.value.hint) is memory


# The runtime's own start takes 16 MiB, and a little more on some processors.
@pytest.mark.parametrize("size", [*range(24, 56, 2), 64, 128, 256, 512])
async def test_request_ends_immediately_under_any_memory_limit(size):
    """Include the case in which only a thread cannot be created, for which TFF's runtime then waits."""
    function = bombs.function(lambda: [bombs.tf.fill([12 * MIB], float(i)) for i in range(8)])
    runtime = Runtime(memory=size * MIB, log=lambda _: None)
    try:
        await runtime.start()
        async with asyncio.timeout(2 * AT_ONCE):
            with pytest.raises(RuntimeFailure) as failure:
                await computed(runtime, function)
        assert "runtime_memory_bytes" in failure.value.hint
    finally:
        await runtime.close()
