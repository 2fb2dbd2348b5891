"""A silo that is paused while it works: it completes the sessions that it is in, and takes no other."""

from __future__ import annotations

import asyncio
import secrets

from fedbroker.wire.messages import Compute, Failed
from tests.support.gated_source import let_reads_return, read_count
from tests.support.proxy import Proxy
from tests.support.transports import coordinator_transport, eventually, silo_transport
from tests.support.worker import echo_ops, load_settings, running_silo


async def test_paused_silo_completes_its_sessions(broker, cohort, waiting, tmp_path):
    own = load_settings(tmp_path, broker.url, cohort, waiting)
    session = secrets.token_hex(4)
    async with running_silo(own) as (service, client):
        first = client.item(echo_ops("waiting"), session=session, last=False)
        answering = asyncio.create_task(client.outputs(first))
        await eventually(lambda: read_count(tmp_path) == 1)
        assert await service.pause()
        await eventually(lambda: len(client.coordinator.leaves) == 1)
        let_reads_return(tmp_path)
        assert len(await answering) == 1
        refused = await client.send(client.item(echo_ops()))
        assert isinstance(refused, Failed)
        assert (refused.error_type, refused.rule) == ("lost", "")
        assert "paused" in refused.cause
        # The next stage of the session that it is in.
        assert len(await client.outputs(client.item([Compute(1)], session=session, stage=1))) == 1
        assert service.state == "paused"
        assert service.journal.outcomes.answered == 2
        assert service.journal.outcomes.refused == 1
        await service.resume()
        await client.check()


async def test_paused_silo_is_silent_until_it_is_resumed(broker, cohort):
    """Pause one of two silos: while the other one announces itself three times, the paused one never does."""
    async with (
        coordinator_transport(broker.url, cohort) as coordinator,
        silo_transport(broker.url, cohort) as silo,
        silo_transport(broker.url, cohort, "jfk"),
    ):
        await eventually(lambda: coordinator.silos == {"ewr", "jfk"})
        assert await silo.transport.pause()
        await eventually(lambda: len(coordinator.leaves) == 1)
        async with coordinator_transport(broker.url, cohort) as later:
            await eventually(lambda: len(of(later.announces, "jfk")) >= 3)
            latest = of(coordinator.announces, "ewr")[-1]
            # A later coordinator finds earlier messages in the lobby, the last of which is the departure.
            assert of(later.announces, "ewr") == [] or of(later.leaves, "ewr")
            await eventually(lambda: len(of(coordinator.announces, "jfk")) >= 6)
            assert of(coordinator.announces, "ewr")[-1] is latest
            count = len(of(later.announces, "ewr"))
            await silo.transport.resume()
            await eventually(lambda: len(of(later.announces, "ewr")) > count)


def of(messages, silo):
    return [message for message in messages if message.silo == silo]


async def test_pause_survives_a_reconnection(broker, cohort):
    """Lose the broker while paused: the silo comes back without an announcement, and says again that it leaves."""
    async with (
        coordinator_transport(broker.url, cohort) as coordinator,
        Proxy(broker.url) as proxy,
        silo_transport(proxy.url, cohort) as silo,
    ):
        await eventually(lambda: coordinator.silos == {"ewr"})
        assert await silo.transport.pause()
        announced = len(coordinator.announces)
        proxy.cut()
        await eventually(lambda: not silo.transport.is_connected)
        await eventually(lambda: silo.transport.is_connected)
        await eventually(lambda: len(coordinator.leaves) == 2)
        assert len(coordinator.announces) == announced
        await silo.transport.resume()
        await eventually(lambda: len(coordinator.announces) > announced)
