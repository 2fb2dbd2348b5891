"""A silo's network fails for half a minute during work: its reply still arrives, and the work ran once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from fedbroker.broker import PrivateBroker
from tests.support.proxy import Proxy
from tests.support.transports import coordinator_transport, eventually, silo_transport

CUT = 30.0
HEARTBEAT = 2
"""Heartbeat of AMQP in seconds: either side closes a silent connection after some 6 s, well within the outage."""


async def _silent(proxy: Proxy) -> None:
    proxy.swallow(CUT)


async def _refused(proxy: Proxy) -> None:
    await proxy.refuse_for(CUT)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fail", "answered"),
    [
        pytest.param(_silent, "while it is cut", id="silent, answered meanwhile"),
        pytest.param(_silent, "when it is back", id="silent, answered later", marks=pytest.mark.whole),
        pytest.param(_refused, "while it is cut", id="refused, answered meanwhile", marks=pytest.mark.whole),
        pytest.param(_refused, "when it is back", id="refused, answered later", marks=pytest.mark.whole),
    ],
)
async def test_work_survives_half_a_minute_without_network(
    broker: PrivateBroker, cohort: str, fail: Callable[[Proxy], Awaitable[None]], answered: str
) -> None:
    async with (
        Proxy(f"{broker.url}?heartbeat={HEARTBEAT}") as proxy,
        coordinator_transport(broker.url, cohort) as coordinator,
        silo_transport(proxy.url, cohort) as silo,
    ):
        release = silo.gated()
        request = asyncio.create_task(coordinator.ask("ewr", 1, seconds=100))
        await eventually(lambda: len(silo.items) == 1)
        lines = silo.transport._control._connection, silo.transport._bulk._connection
        started = time.monotonic()
        await fail(proxy)
        await eventually(lambda: all(line is not None and not line.alive for line in lines), 20)
        if answered == "while it is cut":
            release.set()
        await proxy.mended()
        assert not request.done()
        if answered == "when it is back":
            await eventually(lambda: silo.transport._control._connection not in (None, lines[0]), 30)
            release.set()
        assert await request == b"ok"
        assert time.monotonic() - started >= CUT
        assert len(silo.items) == 1
        assert await coordinator.ask("ewr", 2, seconds=30) == b"ok"
        assert [item.stage for item in silo.items] == [1, 2]
        assert coordinator.transport.late == 0
