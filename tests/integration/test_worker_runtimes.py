"""A C++ runtime that dies or stops at work: the item ends in time, and the next session has another runtime."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from fedbroker.wire.messages import Compute, Data, Failed
from tests.support.transports import eventually
from tests.support.worker import call_ops, echo_ops, identity_computation, load_settings, new_runtimes, running_silo


@pytest.fixture
def ours():
    """Return the C++ runtimes of the silo in this process."""
    return new_runtimes()


@pytest.fixture
async def client(ours, broker, cohort, tmp_path):
    async with running_silo(load_settings(tmp_path, broker.url, cohort)) as (_, client):
        yield client


def stop(runtimes) -> None:
    """Stop a runtime by SIGSTOP: its connections stay open and silent."""
    assert runtimes
    for runtime in runtimes:
        runtime.suspend()


@pytest.mark.alone
async def test_stopped_runtime_fails_only_its_item_in_time(client, ours):
    before = ours()
    stop(before)
    began = time.monotonic()
    reply = await client.send(client.item(echo_ops(), seconds=1.0))
    assert isinstance(reply, Failed)
    assert reply.error_type == "timeout"
    assert time.monotonic() - began < 2.0
    await client.check()
    await eventually(lambda: not set(ours()) & set(before))
    assert ours()


async def test_stopped_runtime_with_kept_values_is_replaced(client, ours):
    function = identity_computation()
    await client.outputs(client.item([Data(1, "rows", (("x", "float32"),))], session="s", last=False))
    stop(ours())
    reply = await client.send(client.item(call_ops(function), session="s", stage=1, seconds=1.0), [function])
    assert isinstance(reply, Failed)
    assert reply.error_type == "timeout"
    await client.check()
    lost = await client.send(client.item([Compute(1)], session="s", stage=2))
    assert isinstance(lost, Failed)
    assert lost.error_type == "lost"


async def test_stopped_idle_runtime_is_replaced(client, ours):
    await client.outputs(client.item([Data(1, "rows", (("x", "float32"),))], session="s", last=False))
    stopped = ours()
    stop(stopped)
    reply = await client.send(client.item([Compute(1)], session="s", stage=1, seconds=0.5))
    assert isinstance(reply, Failed)
    assert reply.error_type == "timeout"
    # The silo first asks it to forget the session, which times out after a second; by then the stop is known.
    await client.send(client.item(echo_ops(), seconds=2.0))
    await client.check()


async def test_three_deaths_of_the_runtime_are_an_error(client, ours):
    async def keep_killing():
        while True:
            for runtime in ours():
                try:
                    runtime.kill()
                except psutil.NoSuchProcess:
                    continue
            await asyncio.sleep(0.01)

    killing = asyncio.create_task(keep_killing())
    try:
        reply = await client.send(client.item(echo_ops(), seconds=30.0))
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    assert isinstance(reply, Failed)
    assert reply.error_type == "lost"
    await client.check()
