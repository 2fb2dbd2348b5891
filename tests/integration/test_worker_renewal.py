"""Work that exceeds the broker's consumer timeout: it runs once, and no connection is closed."""

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

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def impatient():
    """Run a broker that closes the channel of a consumer that holds a message for two seconds."""
    with PrivateBroker(extra_conf={"consumer_timeout": str(int(TIMEOUT * 1000))}) as node:
        node.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
        yield node


@contextlib.asynccontextmanager
async def working(broker, cohort, tmp_path, waiting, **silo):
    """Start a silo with a current work item, behind a proxy that counts connections."""
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
    """Let time pass while the silo holds the work item."""
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


async def test_without_renewal_only_the_queues_own_timeout_keeps_the_channel_open(impatient, cohort, tmp_path, waiting):
    """Before RabbitMQ 3.12 only the broker has a consumer timeout."""
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


async def test_renewed_work_of_a_dead_silo_is_requeued(impatient, cohort, tmp_path, waiting):
    async with working(impatient, cohort, tmp_path, waiting, renew_seconds=0.3) as (service, _, _, asking):
        await passed(1.5)
        await service.close()
        let_reads_return(tmp_path)
        async with SiloService(load_settings(tmp_path, impatient.url, cohort, waiting)):
            assert len(await asking) == 1
        assert read_count(tmp_path) == 2


async def test_work_is_dead_lettered_after_the_delivery_limit(impatient, cohort, tmp_path, waiting):
    """Count deliveries over renewed copies: a crash loop ends, even if each round is longer than a renewal."""
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


async def test_renewals_do_not_raise_the_number_of_current_items(broker, cohort, tmp_path, waiting):
    """Renew a delivery, which frees its place for the next message in the queue: that one has to wait here."""
    own = load_settings(tmp_path, broker.url, cohort, waiting, max_work=2, renew_seconds=0.3)
    async with SiloService(own) as service, work_client(own) as client:
        asking = [asyncio.create_task(client.outputs(client.item(echo_ops("waiting"), seconds=60))) for _ in range(6)]
        held = service._transport._work_consumer._in_flight
        await eventually(lambda: len(held) == 6)  # since the current items were renewed
        assert service.statistics().running == 2
        let_reads_return(tmp_path)
        assert [len(outputs) for outputs in await asyncio.gather(*asking)] == [1] * 6
        assert client.transport.late == 0
        async with queue_admin(broker.url) as look:
            await eventually(lambda: look.holds(f"fedbroker.work.{cohort}.ewr", 0))
        await eventually(lambda: not held)
        await client.check()


async def test_renewed_copy_behind_a_long_queue_runs_once(broker, cohort, tmp_path, waiting, monkeypatch):
    monkeypatch.setattr(work_consumer, "COPY_WAIT", 0.0)
    own = load_settings(tmp_path, broker.url, cohort, {**waiting, "slow": SLOW}, max_work=1, renew_seconds=2.0)
    async with SiloService(own) as service, work_client(own) as client, queue_admin(broker.url) as look:
        inbox, queue = service._transport._work_consumer, f"fedbroker.work.{cohort}.ewr"
        first = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"), seconds=60)))
        await eventually(lambda: read_count(tmp_path) == 1)
        second = asyncio.create_task(client.send(client.item(echo_ops("slow"), session="slow", seconds=60)))
        await eventually(lambda: len(inbox._in_flight) == 2)  # the first item's copy is behind the second item
        let_reads_return(tmp_path)
        assert len(await first) == 1
        await eventually(lambda: len(inbox._awaiting_copy) == 1)
        assert await look.holds(queue, 1)
        await eventually(lambda: look.holds(queue, 0))  # since the second item was renewed
        await client.transport.end_session("ewr", "slow")
        await eventually(lambda: not service.statistics().running)
        assert (client.transport.late, read_count(tmp_path)) == (0, 1)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await client.check()
