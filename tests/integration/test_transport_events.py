"""Coordinators' events on a real broker: they reach a board, and never disturb the coordinator."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aio_pika

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport.coordinator.events import MAX_QUEUED, EventPublisher
from fedbroker.transport.topology import EVENTS, coordinator_id_of, events_key
from fedbroker.transport.watcher import BrokerWatcher
from fedbroker.wire.events import CohortEvent
from fedbroker.wire.messages import Announce, Leave
from tests.support.proxy import Proxy
from tests.support.transports import coordinator_transport, eventually, silo_transport


class Seen:
    """The messages that a board gets."""

    def __init__(self) -> None:
        self.silos: list[Announce | Leave] = []
        self.events: list[CohortEvent] = []

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


@asynccontextmanager
async def watching(url: str, *cohorts: str) -> AsyncIterator[tuple[BrokerWatcher, Seen]]:
    seen = Seen()
    watcher = BrokerWatcher(url, cohorts, seen.silos.append, seen.events.extend)
    await watcher.open(Deadline.after(20))
    try:
        yield watcher, seen
    finally:
        await watcher.close()


@asynccontextmanager
async def publishing(url: str, cohort: str) -> AsyncIterator[EventPublisher]:
    publisher = EventPublisher(url, cohort)
    publisher.start(coordinator_id_of(cohort, "c1"))
    try:
        yield publisher
    finally:
        await publisher.close()


def answered(number: int) -> dict[str, object]:
    return {"name": "silo_answered", "session": "s1", "stage": 0, "silo": f"s{number}", "details": {"seconds": 0.5}}


async def test_events_and_announcements_of_the_cohorts_arrive(broker: PrivateBroker, cohort: str) -> None:
    other = f"o{secrets.token_hex(4)}"
    async with (
        watching(broker.url, cohort) as (_, one),
        watching(broker.url) as (_, every),
        publishing(broker.url, cohort) as publisher,
        publishing(broker.url, other) as elsewhere,
    ):
        for number in range(250):
            publisher.put(answered(number))
        elsewhere.put({"name": "run_started", "details": {"run": "r1"}})
        await eventually(lambda: len(one.events) == 250)
        assert [event.sequence for event in one.events] == list(range(250))
        assert [event.silo for event in one.events] == [f"s{number}" for number in range(250)]
        assert one.events[0].coordinator == coordinator_id_of(cohort, "c1")
        assert one.events[0].details == {"seconds": 0.5}
        await eventually(lambda: "run_started" in every.names)
        assert "run_started" not in one.names
        async with silo_transport(broker.url, cohort):
            await eventually(lambda: any(isinstance(message, Announce) for message in one.silos))
        await eventually(lambda: isinstance(one.silos[-1], Leave))
    assert publisher.dropped == 0


async def test_closing_publishes_what_waits(broker: PrivateBroker, cohort: str) -> None:
    async with watching(broker.url, cohort) as (_, seen):
        async with publishing(broker.url, cohort) as publisher:
            publisher.put({"name": "run_started"})
            await eventually(lambda: seen.names == ["run_started"])
            publisher.put({"name": "run_finished"})
        await eventually(lambda: seen.names == ["run_started", "run_finished"])


async def test_a_broker_that_is_away_costs_events_and_nothing_else(cohort: str) -> None:
    publisher = EventPublisher("amqp://guest:guest@127.0.0.1:1/", cohort)
    publisher.start("c1")
    for number in range(MAX_QUEUED + 5):
        publisher.put(answered(number))
    assert publisher.dropped == 5
    async with asyncio.timeout(10):
        await publisher.close()
    assert publisher.dropped == MAX_QUEUED + 5


async def test_both_sides_reconnect(broker: PrivateBroker, cohort: str) -> None:
    async with (
        Proxy(broker.url) as proxy,
        watching(proxy.url, cohort) as (watcher, seen),
        publishing(proxy.url, cohort) as publisher,
    ):
        publisher.put({"name": "run_started"})
        await eventually(lambda: seen.names == ["run_started"])
        assert await watcher.lost() == ""
        await proxy.refuse()
        await eventually(lambda: _told(watcher))
        publisher.put({"name": "round_finished"})
        await proxy.accept()
        await eventually(lambda: _up(watcher))
        publisher.put({"name": "run_finished"})
        await eventually(lambda: seen.names[-1] == "run_finished")


async def _told(watcher: BrokerWatcher) -> bool:
    return "broker" in await watcher.lost()


async def _up(watcher: BrokerWatcher) -> bool:
    return await watcher.lost() == ""


async def test_foreign_messages_are_ignored(broker: PrivateBroker, cohort: str) -> None:
    async with watching(broker.url, cohort) as (_, seen), publishing(broker.url, cohort) as publisher:
        connection = await aio_pika.connect(broker.url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(EVENTS.name)
            for body in (b"", b"{}", b"\xff" * 100, b"[" * 100_000, b'[{"cohort": "other"}]'):
                await exchange.publish(aio_pika.Message(body), events_key(cohort, "c1"))
            lobby = await channel.get_exchange("fedbroker.lobby")
            await lobby.publish(aio_pika.Message(b"hello"), f"{cohort}.ewr")
            own = coordinator_id_of(cohort, "c1")
            fake = f'[{{"cohort":"{cohort}","coordinator":"{own}","sequence":0,"time":1,"name":"run_started"}}]'
            await exchange.publish(aio_pika.Message(fake.encode()), events_key(cohort, "another"))
        publisher.put({"name": "run_finished"})
        await eventually(lambda: bool(seen.events))
        assert seen.names == ["run_finished"]
        assert seen.silos == []


async def test_a_user_without_the_right_loses_events_and_nothing_else(broker: PrivateBroker, cohort: str) -> None:
    own = "^fedbroker[.](?!events)"
    await asyncio.to_thread(broker.ctl, "add_user", cohort, "secret")
    await asyncio.to_thread(broker.ctl, "set_permissions", cohort, own, own, own)
    where = urlsplit(broker.url)
    url = f"amqp://{cohort}:secret@{where.hostname}:{where.port}/"
    async with (
        watching(broker.url, cohort) as (_, seen),
        coordinator_transport(url, cohort) as ours,
        silo_transport(broker.url, cohort) as silo,
        publishing(url, cohort) as publisher,
    ):
        await eventually(lambda: silo.name in ours.silos)
        for number in range(3):
            publisher.put(answered(number))
            assert await ours.ask(silo.name, number) == b"ok"
    assert seen.events == []
