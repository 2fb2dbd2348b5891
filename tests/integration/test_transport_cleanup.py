"""Closing leaves nothing behind: no queue, connection or task, and no password in any output."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError
from tests.support.proxy import Proxy
from tests.support.transports import (
    EchoSilo,
    RecordingCoordinator,
    coordinator_transport,
    eventually,
    queue_admin,
    silo_transport,
)


async def ours(broker: PrivateBroker, *words: str) -> set[str]:
    """Return the queues whose name contains one of these parts."""
    listed = await asyncio.to_thread(broker.ctl, "list_queues", "name")
    return {name for name in listed.split() if any(word in name for word in words)}


async def test_only_documented_queues_remain(broker: PrivateBroker, cohort: str) -> None:
    stay = {f"fedbroker.{kind}.{cohort}" for kind in ("lobby", "dead")} | {f"fedbroker.work.{cohort}.ewr"}
    async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort) as coordinator:
        key = coordinator.transport.coordinator_id
        assert await coordinator.ask("ewr") == b"ok"
        assert await ours(broker, cohort, key) == stay | {
            *(f"fedbroker.{kind}.{cohort}.ewr" for kind in ("blobs", "mailbox")),
            *(f"fedbroker.{kind}.{key}" for kind in ("callback", "results", "roster")),
        }
    assert await ours(broker, cohort, key) == stay


async def test_nothing_remains_after_a_reconnect(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy:
        async with silo_transport(proxy.url, cohort), coordinator_transport(proxy.url, cohort) as coordinator:
            key = coordinator.transport.coordinator_id
            proxy.cut()
            assert await coordinator.ask("ewr") == b"ok"
        async with queue_admin(broker.url) as look:
            for queue in (f"callback.{key}", f"results.{key}", f"roster.{key}", f"blobs.{cohort}.ewr"):
                assert not await look.has_queue(f"fedbroker.{queue}")


async def test_no_connection_remains(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort):
        there = await asyncio.to_thread(broker.ctl, "list_connections", "client_properties")
        assert there.count(cohort) == 4
        for name in (f"fedbroker silo {cohort}.ewr control", f"fedbroker silo {cohort}.ewr bulk"):
            assert name in there

    async def gone() -> bool:
        return cohort not in await asyncio.to_thread(broker.ctl, "list_connections", "client_properties")

    await eventually(gone)


async def test_no_task_remains(broker: PrivateBroker, cohort: str) -> None:
    before = asyncio.all_tasks()
    async with Proxy(broker.url) as proxy:
        async with silo_transport(proxy.url, cohort), coordinator_transport(proxy.url, cohort) as coordinator:
            assert await coordinator.ask("ewr") == b"ok"
            proxy.cut()
            assert await coordinator.ask("ewr") == b"ok"
        for make in (
            lambda: EchoSilo(proxy.url + "nosuch", cohort).transport,
            lambda: RecordingCoordinator("amqp://[::1]:1/", cohort).transport,
        ):
            with suppress(BrokerError):
                await make().open(Deadline.after(5))
    gc.collect()  # connections that were not closed would start tasks now
    await eventually(lambda: asyncio.all_tasks() == before, 2)


async def test_closing_twice_or_before_opening_is_harmless(broker: PrivateBroker, cohort: str) -> None:
    for end in (EchoSilo(broker.url, cohort).transport, RecordingCoordinator(broker.url, cohort).transport):
        await end.close()
    for end in (EchoSilo(broker.url, cohort).transport, RecordingCoordinator(broker.url, cohort).transport):
        await end.open(Deadline.after(10))
        await end.close()
        await end.close()


async def test_stalled_network_does_not_delay_closing(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy:
        silo, coordinator = EchoSilo(proxy.url, cohort), RecordingCoordinator(proxy.url, cohort)
        await silo.transport.open(Deadline.after(10))
        await coordinator.transport.open(Deadline.after(10))
        proxy.stall()
        async with asyncio.timeout(15):
            await asyncio.gather(silo.transport.close(), coordinator.transport.close())


async def test_passwords_are_never_logged_or_raised(
    broker: PrivateBroker, cohort: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    password = broker.url.split("@")[0].rpartition(":")[2]
    with caplog.at_level(logging.DEBUG):
        async with Proxy(broker.url) as proxy:
            async with (
                silo_transport(proxy.url, cohort) as silo,
                coordinator_transport(proxy.url, cohort) as coordinator,
            ):
                await proxy.refuse()
                await proxy.accept()
                assert await coordinator.ask("ewr") == b"ok"
                shown = [repr(vars(link)) for link in (silo.transport._control, coordinator.transport._bulk)]
            with suppress(BrokerError):
                await EchoSilo(proxy.url + "nosuch", cohort).transport.open(Deadline.after(5))
    output = capfd.readouterr()
    for text in (caplog.text, output.out, output.err, *shown):
        assert password not in text
    assert [record.name for record in caplog.records if record.name.startswith("aio")] == []
