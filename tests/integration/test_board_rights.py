"""Permissions of a board's user: it sees cohorts through its own queues, and the broker refuses everything else."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import aio_pika
import aiormq.exceptions
import pytest

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerRefused
from fedbroker.transport import topology
from fedbroker.transport.coordinator.events import EventPublisher
from fedbroker.transport.topology import EVENTS, EXCHANGES, LOBBY
from fedbroker.transport.watcher import BrokerWatcher
from fedbroker.wire.events import CohortEvent
from fedbroker.wire.messages import Announce, Leave
from tests.support.management import Admin
from tests.support.transports import coordinator_transport, eventually, silo_transport

pytestmark = [pytest.mark.broker]

COHORT = f"t{secrets.token_hex(6)}"
OTHER = f"u{secrets.token_hex(6)}"
OWN = "fedbroker.board.0a1b.silos"


@pytest.fixture(scope="module")
def enrolled(office: Admin) -> Admin:
    for cohort in (COHORT, OTHER):
        office.done("enroll", "ewr", "--cohort", cohort)
    office.done("board")
    office.done("board", "narrow", "--cohort", COHORT)
    return office


def url_of(office: Admin, name: str) -> str:
    return (Path(office.out) / "boards" / name / "broker.url").read_text().strip()


async def test_a_board_sees_silos_events_and_the_number_of_dead_letters(enrolled: Admin) -> None:
    silos: list[Announce | Leave] = []
    events: list[CohortEvent] = []
    watcher = BrokerWatcher(url_of(enrolled, "board"), (), silos.append, events.extend)
    await watcher.open(Deadline.after(20))
    coordinator = enrolled.coordinator_url()
    publisher = EventPublisher(coordinator, COHORT)
    publisher.start("c1")
    try:
        publisher.put({"name": "run_started"})
        async with silo_transport(enrolled.silo_url(COHORT), COHORT, enrolled=True):
            await eventually(lambda: bool(silos))
        await eventually(lambda: [event.name for event in events] == ["run_started"])
        assert await watcher.dead_letters([COHORT, "unknown"]) == {COHORT: 0, "unknown": None}
        assert await watcher.lost() == ""
    finally:
        await publisher.close()
        await watcher.close()


async def test_a_board_of_one_cohort_sees_no_other(enrolled: Admin) -> None:
    url = url_of(enrolled, "narrow")
    one = BrokerWatcher(url, (COHORT,), lambda _: None, lambda _: None)
    await one.open(Deadline.after(20))
    await one.close()
    for cohorts in ((), (OTHER,), (COHORT, OTHER)):
        with pytest.raises(BrokerRefused):
            await BrokerWatcher(url, cohorts, lambda _: None, lambda _: None).open(Deadline.after(20))


@pytest.mark.parametrize("name", ["board", "narrow"])
async def test_a_board_can_do_nothing_else(enrolled: Admin, name: str) -> None:
    async with coordinator_transport(enrolled.coordinator_url(), COHORT) as ours:
        key = ours.transport.coordinator_id
        queues = [f"fedbroker.{kind}.{COHORT}.ewr" for kind in ("work", "blobs", "mailbox")]
        queues += [f"fedbroker.{kind}.{COHORT}" for kind in ("lobby", "dead")]
        queues += [f"fedbroker.{kind}.{key}" for kind in ("callback", "results")]
        exchanges = [exchange.name for exchange in (*EXCHANGES, EVENTS)]
        keys = [f"{COHORT}.ewr", f"{COHORT}.{key}", f"{key}.s.0.ewr", COHORT]
        connection = await aio_pika.connect(url_of(enrolled, name))
        async with connection:
            tried = [
                *(("basic_get", (queue,)) for queue in queues),
                *(("basic_consume", (queue, print)) for queue in queues),
                *(("queue_purge", (queue,)) for queue in queues),
                *(("queue_delete", (queue,)) for queue in queues),
                *(
                    ("queue_declare", (queue,))
                    for queue in ("", "x", "fedbroker.board.x", "fedbroker.work.x.y", f"{OWN}.x")
                ),
                *(("exchange_delete", (exchange,)) for exchange in exchanges),
                *(("queue_bind", (queue, LOBBY.name, "#")) for queue in queues),
                *(("exchange_declare", (exchange,)) for exchange in ("fedbroker.x", "x")),
                *(("exchange_bind", (one, other, "#")) for one in exchanges for other in exchanges if one != other),
                *(("publish", (exchange, key)) for exchange in (*exchanges, "amq.topic", "amq.fanout") for key in keys),
                *(("publish", ("", queue)) for queue in (*queues, OWN)),
            ]
            channel = await connection.channel(publisher_confirms=False)
            underlay = await channel.get_underlay_channel()
            await underlay.queue_declare(OWN, exclusive=True)
            tried += [
                ("queue_bind", (OWN, exchange.name, "#"))
                for exchange in EXCHANGES
                if exchange is not LOBBY or name == "narrow"
            ]
            allowed = [(action, *given) for action, given in tried if not await _refused(connection, action, given)]
            assert allowed == []


async def _refused(connection: aio_pika.abc.AbstractConnection, action: str, given: tuple[object, ...]) -> bool:
    """Return whether the broker refuses an action for a missing permission."""
    channel = await (await connection.channel(publisher_confirms=False)).get_underlay_channel()
    try:
        async with asyncio.timeout(10):
            if action == "publish":
                await channel.tx_select()
                exchange, key = given
                await channel.basic_publish(b"", exchange=str(exchange), routing_key=str(key))
                await channel.tx_rollback()
            elif action == "exchange_declare":
                await channel.exchange_declare(*given, exchange_type="topic")  # type: ignore[arg-type]
            else:
                await getattr(channel, action)(*given)
    except aiormq.exceptions.ChannelClosed as error:
        return "ACCESS_REFUSED" in str(error)
    await channel.close()
    return False


async def test_a_coordinator_publishes_events_and_reads_none(enrolled: Admin) -> None:
    connection = await aio_pika.connect(enrolled.coordinator_url())
    queue = topology.callback_queue("c9").name
    async with connection:
        channel = await (await connection.channel()).get_underlay_channel()
        await channel.queue_declare(queue, exclusive=True)
        assert await _refused(connection, "queue_bind", (queue, EVENTS.name, "#"))
        assert await _refused(connection, "publish", (EVENTS.name, "no-cohort"))
        assert not await _refused(connection, "publish", (EVENTS.name, f"{COHORT}.c1"))


async def test_a_silo_neither_publishes_events_nor_reads_them(enrolled: Admin) -> None:
    connection = await aio_pika.connect(enrolled.silo_url(COHORT))
    async with connection:
        for key in (f"{COHORT}.ewr", f"{COHORT}.c1"):
            assert await _refused(connection, "publish", (EVENTS.name, key))
        assert await _refused(connection, "queue_bind", (f"fedbroker.mailbox.{COHORT}.ewr", EVENTS.name, "#"))


def test_a_board_is_made_once_and_shows_no_password(enrolled: Admin) -> None:
    printed = enrolled.done("board", "third")
    assert "fedbroker board serve" in printed
    assert url_of(enrolled, "third") not in printed
    assert "exists already" in enrolled.refused("board", "third")
    before = url_of(enrolled, "third")
    enrolled.done("board", "third", "--force")
    assert url_of(enrolled, "third") != before
