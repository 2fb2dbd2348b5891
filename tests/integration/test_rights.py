"""Permissions of an enrolled silo: the broker allows its own queues and names and refuses everything else."""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import urlsplit

import aio_pika
import aiormq.exceptions
import pytest

from fedbroker.transport import topology
from tests.support.management import Admin
from tests.support.transports import assert_both_directions_work, coordinator_transport, eventually, silo_transport

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]

COHORT = f"t{secrets.token_hex(6)}"
OTHER = f"u{secrets.token_hex(6)}"
LARGE = secrets.token_bytes(3 << 20)


@pytest.fixture(scope="module")
def enrolled(office: Admin) -> Admin:
    """Enrol two silos of a cohort, and a silo of the same name in another cohort."""
    for silo, cohort in (("ewr", COHORT), ("jfk", COHORT), ("ewr", OTHER)):
        office.done("enroll", silo, "--cohort", cohort)
    return office


@pytest.fixture
async def ewr(enrolled: Admin):
    """Return a function that tries an action as ``ewr`` and returns the refusal, if any; two coordinators are open."""
    url = enrolled.silo_url(COHORT)
    async with (
        coordinator_transport(enrolled.coordinator_url(), COHORT) as ours,
        coordinator_transport(enrolled.coordinator_url(), OTHER) as others,
        await aio_pika.connect(url) as connection,
    ):
        names = {
            "cohort": COHORT,
            "other": OTHER,
            "key": ours.transport.coordinator_id,
            "foreign": others.transport.coordinator_id,
        }

        async def refusal(action, *arguments, **options) -> str | None:
            channel = await (await connection.channel(publisher_confirms=False)).get_underlay_channel()
            given = [one.format(**names) if isinstance(one, str) else one for one in arguments]
            try:
                async with asyncio.timeout(10):
                    await action(channel, *given, **options)
            except aiormq.exceptions.ChannelClosed as error:
                return str(error)
            await channel.close()
            return None

        yield refusal


async def publish(channel, exchange, key, **properties):
    """Publish in a transaction that is rolled back, so that an allowed message has no effect."""
    await channel.tx_select()
    await channel.basic_publish(
        b"", exchange=exchange, routing_key=key, properties=aiormq.spec.Basic.Properties(**properties)
    )
    await channel.tx_rollback()


async def get(channel, queue):
    await channel.basic_get(queue)


async def consume(channel, queue):
    await channel.basic_consume(queue, lambda _: None)


async def purge(channel, queue):
    await channel.queue_purge(queue)


async def declare(channel, queue, **options):
    await channel.queue_declare(queue, **options)


async def delete(channel, queue):
    await channel.queue_delete(queue)


async def bind(channel, queue, exchange, key):
    await channel.queue_bind(queue, exchange, key)


async def unbind(channel, queue, exchange, key):
    await channel.queue_unbind(queue, exchange, key)


async def declare_exchange(channel, exchange, kind="topic"):
    await channel.exchange_declare(exchange, exchange_type=kind, durable=True)


async def delete_exchange(channel, exchange):
    await channel.exchange_delete(exchange)


async def bind_exchange(channel, destination, source, key):
    await channel.exchange_bind(destination, source, key)


OWN = [f"fedbroker.{kind}.{{cohort}}.ewr" for kind in ("work", "blobs", "mailbox")]
NOT_OWN = [
    *(f"fedbroker.{kind}.{{cohort}}.jfk" for kind in ("work", "blobs", "mailbox")),
    *(f"fedbroker.{kind}.{{other}}.ewr" for kind in ("work", "blobs", "mailbox")),
    *(f"fedbroker.{kind}.{{{cohort}}}" for kind in ("lobby", "dead") for cohort in ("cohort", "other")),
    *(f"fedbroker.{kind}.{{key}}" for kind in ("callback", "results")),
]
FORGED = [
    ("fedbroker.lobby", "{cohort}.jfk"),
    ("fedbroker.lobby", "{other}.ewr"),
    ("fedbroker.lobby", "{cohort}.ewr.jfk"),
    ("fedbroker.lobby", ""),
    ("fedbroker.reply", "{key}.s.0.jfk"),
    ("fedbroker.reply", "{foreign}.s.0.ewr"),
    ("fedbroker.reply", "k.s.0.ewr"),
    ("fedbroker.reply", "{key}.s.0.ewr.jfk"),
    ("fedbroker.reply", "{key}.s.0.jfk.ewr"),
    ("fedbroker.reply", "ewr"),
    ("fedbroker.results", "{key}.jfk"),
    ("fedbroker.results", "{foreign}.ewr"),
    ("fedbroker.results", "{key}.jfk.ewr"),
    ("fedbroker.work", "{cohort}.jfk.{key}"),
    ("fedbroker.work", "{other}.ewr.{key}"),
    ("fedbroker.work", "{cohort}.ewr"),
    ("fedbroker.work", "{cohort}.ewr.jfk.{key}"),
    ("fedbroker.mail", "{cohort}.jfk"),
    ("fedbroker.mail", "{cohort}.ewr"),
    ("fedbroker.blobs", "{cohort}"),
    ("fedbroker.blobs", "{cohort}.jfk"),
    ("fedbroker.blobs", "{cohort}.ewr"),
    ("fedbroker.dead", "{cohort}.ewr.{key}"),
    ("amq.topic", "{cohort}.ewr"),
    ("amq.direct", "{cohort}.ewr"),
    ("amq.fanout", ""),
    *(("", queue) for queue in (*OWN, *NOT_OWN)),
]


CONFIGURE = [
    *((delete, (queue,)) for queue in OWN),
    *((declare, (queue,)) for queue in (*OWN, "fedbroker.work.{cohort}.bos", "fedbroker.x", "anything")),
    *((delete_exchange, (exchange.name,)) for exchange in topology.EXCHANGES),
    *((declare_exchange, (exchange.name, exchange.kind)) for exchange in topology.EXCHANGES),
    (declare_exchange, ("fedbroker.x",)),
    *((bind, (OWN[2], exchange.name, "#")) for exchange in topology.EXCHANGES),
    (bind, (OWN[1], "fedbroker.blobs", "{cohort}.jfk")),
    (bind, (OWN[0], "fedbroker.work", "{cohort}.jfk.*")),
    (bind, (OWN[0], "amq.topic", "#")),
    (unbind, (OWN[0], "fedbroker.work", "{cohort}.ewr.*")),
    (unbind, (NOT_OWN[0], "fedbroker.work", "{cohort}.jfk.*")),
    (bind_exchange, ("fedbroker.reply", "fedbroker.work", "#")),
    (bind_exchange, ("fedbroker.mail", "fedbroker.lobby", "#")),
]


async def not_refused(ewr, trials):
    """Return the trials that the broker does not refuse for a missing permission, with its replies."""
    answers = [(action.__name__, *arguments, await ewr(action, *arguments)) for action, arguments in trials]
    return [answer for answer in answers if "ACCESS_REFUSED" not in (answer[-1] or "")]


async def test_silo_cannot_publish_under_another_name(ewr):
    assert await not_refused(ewr, [(publish, forged) for forged in FORGED]) == []


async def test_silo_cannot_read_or_purge_other_queues(ewr):
    trials = [(action, (queue,)) for queue in NOT_OWN for action in (get, consume, purge, delete)]
    assert await not_refused(ewr, trials) == []


async def test_silo_cannot_declare_or_delete_any_queue(ewr):
    assert await not_refused(ewr, CONFIGURE) == []


async def test_silo_cannot_declare_a_server_named_queue(ewr):
    for options in ({"exclusive": True}, {"auto_delete": True}, {"durable": True}):
        assert "ACCESS_REFUSED" in await ewr(declare, "", **options)


async def test_silo_cannot_set_another_user_id_on_a_message(ewr):
    for user in (f"{COHORT}.jfk", f"{OTHER}.ewr", "coordinator", "guest"):
        assert "PRECONDITION_FAILED - user_id" in await ewr(publish, "fedbroker.lobby", "{cohort}.ewr", user_id=user)
    assert await ewr(publish, "fedbroker.lobby", "{cohort}.ewr", user_id=f"{COHORT}.ewr") is None


async def test_silo_can_publish_under_its_own_name(ewr):
    for exchange, key in (
        ("fedbroker.lobby", "{cohort}.ewr"),
        ("fedbroker.reply", "{key}.s.0.ewr"),
        ("fedbroker.results", "{key}.ewr"),
        ("fedbroker.work", "{cohort}.ewr.{key}"),
    ):
        assert await ewr(publish, exchange, key) is None


async def test_silo_can_read_its_own_queues(ewr):
    for queue in OWN[1:]:
        assert await ewr(get, queue) is None
    for queue in OWN:
        assert await ewr(purge, queue) is None


async def test_silo_cannot_enter_another_virtual_host(enrolled):
    url = urlsplit(enrolled.silo_url(COHORT))
    for path in ("/", "/%2F"):
        with pytest.raises((aiormq.exceptions.AMQPError, ConnectionError)):
            await aio_pika.connect(url._replace(path=path).geturl(), timeout=10)


async def test_coordinator_cannot_read_a_silos_queue(enrolled):
    async with await aio_pika.connect(enrolled.coordinator_url()) as connection:
        for queue in OWN:
            for action in (get, purge, delete):
                channel = await (await connection.channel(publisher_confirms=False)).get_underlay_channel()
                with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                    await action(channel, queue.format(cohort=COHORT))


async def test_permissions_suffice_for_work_and_blobs_in_both_directions(enrolled):
    """Run long work, too, which is given back and taken again."""
    coordinator, ewr = enrolled.coordinator_url(), enrolled.silo_url(COHORT)
    async with coordinator_transport(coordinator, COHORT) as theirs, silo_transport(ewr, COHORT, enrolled=True) as silo:
        await assert_both_directions_work(theirs, silo, LARGE)
    await eventually(lambda: any(leave.silo == "ewr" for leave in theirs.leaves))
