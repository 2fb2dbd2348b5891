"""Work that takes longer than the broker lets a consumer hold a message: done once, and nobody is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest
from fedbroker_worker.service import SiloService

from fedbroker.broker import PrivateBroker
from fedbroker.transport import Dead
from fedbroker.transport.silo import work_consumer
from tests.support.gated_source import let_reads_return, read_count
from tests.support.proxy import Proxy
from tests.support.transports import eventually, queue_admin
from tests.support.worker import echo_ops, load_settings, work_client

TIMEOUT = 2.0
SLOW = {"query": "select sum(a.i * b.i)::float as x from range(100000000) a(i), range(100000000) b(i)"}

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def impatient():
    """A broker that closes the channel of whoever holds a message for two seconds; it looks every half."""
    with PrivateBroker(extra_conf={"consumer_timeout": str(int(TIMEOUT * 1000))}) as node:
        node.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
        yield node


@contextlib.asynccontextmanager
async def working(broker, cohort, tmp_path, waiting, **silo):
    """A silo behind a proxy that counts its connections, with a work item in hand."""
    async with Proxy(broker.url) as proxy:
        own = load_settings(tmp_path, proxy.url, cohort, waiting, **silo)
        async with SiloService(own) as service, work_client(own, broker.url) as client:
            asking = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"), seconds=60)))
            await eventually(lambda: read_count(tmp_path) == 1)
            try:
                yield service, client, proxy, asking
            finally:
                let_reads_return(tmp_path)
                asking.cancel()


async def passed(seconds):
    """That much time with the work in hand is what these tests are about."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


async def test_work_of_several_timeouts_is_renewed_and_answered_once(impatient, cohort, tmp_path, waiting):
    async with working(impatient, cohort, tmp_path, waiting, renew_seconds=0.5) as (_, client, proxy, asking):
        await passed(4 * TIMEOUT)
        assert proxy.connections == 2  # those of the start
        let_reads_return(tmp_path)
        assert len(await asking) == 1
        assert read_count(tmp_path) == 1
        assert client.transport.late == 0
        async with queue_admin(impatient.url) as look:
            await eventually(lambda: look.holds(f"fedbroker.work.{cohort}.ewr", 0))
        await client.check()


async def test_without_renewal_the_broker_cuts_the_silo_off_unless_it_heeds_the_queues_own_timeout(
    impatient, cohort, tmp_path, waiting
):
    """Before RabbitMQ 3.12 there is none but the broker's."""
    version = tuple(map(int, re.findall(r"\d+", impatient.ctl("version"))[:2]))
    async with working(impatient, cohort, tmp_path, waiting, renew_seconds=600) as (_, _, proxy, asking):
        if version < (3, 12):
            await eventually(lambda: proxy.connections > 2, 10 * TIMEOUT)
        else:
            await passed(4 * TIMEOUT)
            assert proxy.connections == 2
        let_reads_return(tmp_path)
        assert len(await asking) == 1
        assert read_count(tmp_path) == 1


async def test_a_silo_that_dies_with_renewed_work_gives_it_back(impatient, cohort, tmp_path, waiting):
    async with working(impatient, cohort, tmp_path, waiting, renew_seconds=0.3) as (service, _, _, asking):
        await passed(1.5)
        await service.close()
        let_reads_return(tmp_path)
        async with SiloService(load_settings(tmp_path, impatient.url, cohort, waiting)):
            assert len(await asking) == 1
        assert read_count(tmp_path) == 2


async def test_work_that_comes_back_too_often_is_dead_whoever_counted(impatient, cohort, tmp_path, waiting):
    """The copies carry on the count: a crash loop ends, even if each round is longer than a renewal."""
    own = load_settings(tmp_path, impatient.url, cohort, waiting, renew_seconds=0.3)
    async with client_of_started(own, tmp_path) as (client, asking):
        for round_ in range(2, 12):
            async with SiloService(own):
                await eventually(lambda r=round_: read_count(tmp_path) == r or asking.done(), 20)
                if asking.done():
                    break
                await passed(0.8)  # renewed at least once
        reply = await asking
        assert isinstance(reply, Dead)
        assert read_count(tmp_path) <= 5
        let_reads_return(tmp_path)
        async with SiloService(own):
            await client.check()


@contextlib.asynccontextmanager
async def client_of_started(own, tmp_path):
    async with SiloService(own) as service, work_client(own) as client:
        asking = asyncio.create_task(client.send(client.item(echo_ops("waiting"), seconds=90)))
        await eventually(lambda: read_count(tmp_path) == 1)
        await passed(0.8)
        await service.close()
        yield client, asking


async def test_renewals_do_not_let_more_work_in(broker, cohort, tmp_path, waiting):
    """The place of a delivery that is given back goes to the next one in the queue: that one has to wait here."""
    own = load_settings(tmp_path, broker.url, cohort, waiting, max_work=2, renew_seconds=0.3)
    async with SiloService(own) as service, work_client(own) as client:
        asking = [asyncio.create_task(client.outputs(client.item(echo_ops("waiting"), seconds=60))) for _ in range(6)]
        held = service._end._work_consumer._holdings
        await eventually(lambda: len(held) == 6)  # since those in hand were renewed
        assert service.statistics().in_hand == 2
        let_reads_return(tmp_path)
        assert [len(outputs) for outputs in await asyncio.gather(*asking)] == [1] * 6
        assert client.transport.late == 0
        async with queue_admin(broker.url) as look:
            await eventually(lambda: look.holds(f"fedbroker.work.{cohort}.ewr", 0))
        await eventually(lambda: not held)
        await client.check()


async def test_a_copy_behind_a_long_queue_is_not_done_again(broker, cohort, tmp_path, waiting, monkeypatch):
    monkeypatch.setattr(work_consumer, "COPY_SECONDS", 0.0)
    own = load_settings(tmp_path, broker.url, cohort, {**waiting, "slow": SLOW}, max_work=1, renew_seconds=2.0)
    async with SiloService(own) as service, work_client(own) as client, queue_admin(broker.url) as look:
        inbox, queue = service._end._work_consumer, f"fedbroker.work.{cohort}.ewr"
        first = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"), seconds=60)))
        await eventually(lambda: read_count(tmp_path) == 1)
        second = asyncio.create_task(client.send(client.item(echo_ops("slow"), session="slow", seconds=60)))
        await eventually(lambda: len(inbox._holdings) == 2)  # the first one's copy is behind the second one
        let_reads_return(tmp_path)
        assert len(await first) == 1
        await eventually(lambda: len(inbox._owed) == 1)
        assert await look.holds(queue, 1)
        await eventually(lambda: look.holds(queue, 0))  # since the second one was renewed
        await client.transport.end_session("ewr", "slow")
        await eventually(lambda: not service.statistics().in_hand)
        assert (client.transport.late, read_count(tmp_path)) == (0, 1)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await client.check()
