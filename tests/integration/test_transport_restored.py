"""Exchanges that are deleted by hand: both sides declare and bind them again, and lose no work and no results."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import aio_pika
import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport.coordinator import transport as coordinator_module
from fedbroker.transport.silo import transport as silo_module
from fedbroker.transport.topology import EXCHANGES, RESULTS, WORK, Exchange
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Done, EndSession, WorkItem
from tests.support.transports import (
    RecordingCoordinator,
    assert_both_directions_work,
    coordinator_transport,
    eventually,
    silo_transport,
    work_item,
)

pytestmark = pytest.mark.timeout(180)

LARGE = 6 << 20
"""Bytes of an output: several chunks."""


@pytest.fixture(scope="module")
def own_broker() -> Iterator[PrivateBroker]:
    """Run a broker whose exchanges the tests may delete."""
    with PrivateBroker() as node:
        yield node


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore a silo's bindings within a few seconds."""
    monkeypatch.setattr(silo_module, "RESTORE_SECONDS", 3.0)
    monkeypatch.setattr(coordinator_module, "RESTORE_SECONDS", 1.0)


async def delete(url: str, exchange: Exchange) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.exchange_delete(exchange.name)


async def bindings(node: PrivateBroker, cohort: str, coordinator: RecordingCoordinator) -> set[str]:
    """Return the bindings of both sides, to named exchanges."""
    columns = ("source_name", "destination_name", "routing_key")
    lines = (await asyncio.to_thread(node.ctl, "list_bindings", *columns)).splitlines()
    ours = (cohort, coordinator.transport.coordinator_id)
    return {line for line in lines if line.startswith("fedbroker.") and any(name in line for name in ours)}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_deleted_exchange_is_restored_with_its_bindings(
    own_broker: PrivateBroker, cohort: str, soon: None, exchange: Exchange
) -> None:
    async with (
        silo_transport(own_broker.url, cohort) as silo,
        coordinator_transport(own_broker.url, cohort) as coordinator,
    ):
        assert await coordinator.ask("ewr", 7) == b"ok"
        before = await bindings(own_broker, cohort, coordinator)
        assert any(line.startswith(exchange.name) for line in before)
        await delete(own_broker.url, exchange)

        async def restored() -> bool:
            return await bindings(own_broker, cohort, coordinator) == before

        await eventually(restored, 60)
        silo.items.clear()
        await assert_both_directions_work(coordinator, silo, secrets.token_bytes(LARGE))
        await coordinator.transport.send_notice("ewr", EndSession("s1"))
        await eventually(lambda: len(silo.ended) == 1)


async def test_work_waits_for_a_silo_that_binds_again(own_broker: PrivateBroker, cohort: str, soon: None) -> None:
    async with (
        silo_transport(own_broker.url, cohort) as silo,
        coordinator_transport(own_broker.url, cohort) as coordinator,
    ):
        await eventually(lambda: "ewr" in coordinator.silos)
        await delete(own_broker.url, WORK)
        assert await coordinator.ask("ewr", 1, 60.0) == b"ok"
        assert len(silo.items) == 1


async def test_no_result_is_lost_whose_exchange_is_deleted(own_broker: PrivateBroker, cohort: str, soon: None) -> None:
    """Delete the exchange between the work item and its results: the silo declares it before the coordinator binds."""
    data = secrets.token_bytes(LARGE)
    async with (
        silo_transport(own_broker.url, cohort) as silo,
        coordinator_transport(own_broker.url, cohort) as coordinator,
    ):

        async def answer(item: WorkItem) -> None:
            await delete(own_broker.url, RESULTS)
            await silo.send(item, [data], Deadline.after(60))

        silo.answer = answer
        item = work_item("ewr", coordinator.transport.coordinator_id, seconds=60)
        done = await coordinator.transport.request(item, {}, Deadline.after(60))
        assert isinstance(done, Done)
        assert await coordinator.transport.results.get(digest_of(data), Deadline.after(60), 30.0) == data
        assert len(silo.items) == 1


async def test_results_for_a_coordinator_that_is_gone_are_dropped(
    own_broker: PrivateBroker, cohort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silo_module, "ROUTE_TIMEOUT", 1.0)
    async with silo_transport(own_broker.url, cohort) as silo:
        async with coordinator_transport(own_broker.url, cohort) as coordinator:
            await coordinator.ask("ewr", 1)
        async with asyncio.timeout(60):
            await silo.transport._send_outputs(
                silo.items[0], {digest_of(b"x" * LARGE): b"x" * LARGE}, Deadline.after(60)
            )
