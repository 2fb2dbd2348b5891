"""Replaced runtimes: how many are kept for leases that have values in them, and for how long."""

from __future__ import annotations

import pytest

from fedbroker.errors import RuntimeUnavailable
from fedbroker.runtime import Runtime, runtimes
from fedbroker.runtime.runtimes import MAX_RETIRED, Runtimes
from tests.support.transports import eventually


@pytest.fixture
async def several():
    pool = Runtimes(lambda: Runtime(log=lambda _: None))
    yield pool
    await pool.close()


async def retired(pool):
    """Return a lease in a runtime that another lease has left busy."""
    kept, given_up = await pool.lease(1), await pool.lease(1)
    await pool.release(given_up, busy=True)
    return kept


async def ended(lease):
    """Return whether the runtime of a lease has ended."""
    try:
        await lease.executor.struct([])
    except RuntimeUnavailable:
        return True
    return False


async def test_only_a_few_busy_runtimes_are_kept(several):
    leases = [await retired(several) for _ in range(MAX_RETIRED)]
    for lease in leases:
        await lease.executor.struct([])
    leases.append(await retired(several))
    await eventually(lambda: ended(leases[0]))
    for lease in leases[1:]:
        await lease.executor.struct([])


async def test_idle_replaced_runtime_is_ended_after_a_while(several, monkeypatch):
    monkeypatch.setattr(runtimes, "IDLE_SECONDS", 0.1)
    kept, worked_in = await several.lease(1), await several.lease(1)
    given_up = await several.lease(1)
    with worked_in.in_use():
        await several.release(given_up, busy=True)
        assert several.retired == 1
        assert not await ended(kept)
    await eventually(lambda: ended(kept))
