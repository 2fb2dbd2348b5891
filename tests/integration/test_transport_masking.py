"""Messages of masked sums, both ways, over a real broker: plain, signed and sealed."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.deadline import Deadline
from fedbroker.transport import topology
from fedbroker.trust.keyring import Keys
from fedbroker.trust.keys import Identity
from fedbroker.wire import encode
from fedbroker.wire.messages import Done, MaskNotice, MaskReply
from tests.support.transports import coordinator_transport, eventually, queue_admin, silo_transport, work_item

COORDINATOR, EWR, JFK = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
CONTENT = b"a share, sealed to another silo" * 50


def coordinator_keys(security):
    if security == "none":
        return None
    return Keys(COORDINATOR, {"ewr": EWR.public, "jfk": JFK.public}, security == "seal")


def silo_keys(security, own=EWR):
    return None if security == "none" else Keys(own, {"main": COORDINATOR.public}, security == "seal")


class MaskingSilo:
    """Makes an echo silo send an offer, and reply once it has got the notice ``sharing``."""

    def __init__(self, silo):
        self.silo, self.notices = silo, asyncio.Queue()
        silo.answer = self.answer
        silo.transport._on_mask_notice = lambda *notice: self.notices.put_nowait(notice)

    async def answer(self, item):
        await self.send(item, "offer", CONTENT)
        _, content, _ = await self.notices.get()
        await self.silo.send(item, [content], Deadline.after(20))

    async def send(self, item, step, content, *, stage=None, silo=None):
        own, stage = self.silo, item.stage if stage is None else stage
        reply = MaskReply(item.session_id, stage, silo or own.name, own.incarnation, step)
        signed = own._signed[item.session_id, item.stage]
        await own.transport.mask_reply(item, reply, content, Deadline.after(20), signed)


@pytest.fixture
def received():
    """Return what the coordinator's handler gets, and how many times it was called."""
    return asyncio.Queue()


@pytest.mark.parametrize("security", ["none", "sign", "seal"])
async def test_steps_pass_in_both_directions(broker, cohort, security, received):
    async with (
        silo_transport(broker.url, cohort, keys=silo_keys(security)) as silo,
        coordinator_transport(broker.url, cohort, keys=coordinator_keys(security)) as coordinator,
    ):
        masking, transport = MaskingSilo(silo), coordinator.transport
        item = work_item("ewr", transport.coordinator_id)
        handler = lambda reply, content: received.put_nowait((reply, bytes(content)))  # noqa: E731
        with transport.mask_replies("s1", 0, handler):
            asking = asyncio.create_task(transport.request(item, {}, Deadline.after(20)))
            reply = MaskReply("s1", 0, "ewr", silo.incarnation, "offer")
            assert await received.get() == (reply, CONTENT)
            notice = MaskNotice("s1", 0, silo.incarnation, "sharing")
            await transport.send_notice("ewr", notice, [b"the offers"])
            done = await asking
        assert isinstance(done, Done)
        assert bytes(await transport.results.get(done.outputs[0][0], Deadline.after(5))) == b"the offers"
        assert masking.notices.empty()
        assert coordinator.forged == []


async def test_late_steps_are_no_fault_of_the_silo(broker, cohort):
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
    ):
        masking, transport = MaskingSilo(silo), coordinator.transport
        silo.answer = silo.echo
        with transport.mask_replies("s1", 0, lambda *_: None):
            assert await coordinator.ask("ewr") == b"ok"
        for _ in range(2 * transport._limits.max_strikes):
            await masking.send(silo.items[0], "shares", CONTENT)
        assert await coordinator.ask("ewr", 1) == b"ok"
        assert transport.late == 0


@pytest.mark.parametrize("fault", ["session", "silo"])
async def test_steps_that_no_stage_expects_are_strikes(broker, cohort, fault, received):
    """A step of an unknown session, or in the name of another silo, does not reach the handler."""
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as raw,
    ):
        transport = coordinator.transport
        with transport.mask_replies("s1", 0, lambda *message: received.put_nowait(message)):
            session = "other" if fault == "session" else "s1"
            name = "jfk" if fault == "silo" else "ewr"
            reply = MaskReply(session, 0, name, silo.incarnation, "offer")
            body = encode(reply, [CONTENT])
            key = topology.reply_key(transport.coordinator_id, session, 0, "ewr")
            for _ in range(transport._limits.max_strikes + 1):
                await raw.publish("fedbroker.reply", key, body)
            await eventually(lambda: transport._misbehaviour.exceeds_limit("ewr", asyncio.get_running_loop().time()))
            assert received.empty()


async def test_step_that_another_silo_has_signed_is_forged(broker, cohort, received):
    async with (
        silo_transport(broker.url, cohort, "ewr", keys=silo_keys("sign", JFK)) as silo,
        coordinator_transport(broker.url, cohort, keys=coordinator_keys("sign")) as coordinator,
    ):
        masking, transport = MaskingSilo(silo), coordinator.transport
        silo.answer = lambda item: masking.send(item, "offer", CONTENT)
        with transport.mask_replies("s1", 0, lambda *message: received.put_nowait(message)):
            item = work_item("ewr", transport.coordinator_id)
            asking = asyncio.create_task(transport.request(item, {}, Deadline.after(20)))
            await eventually(lambda: any(silo == "ewr" and session == "s1" for silo, session, _ in coordinator.forged))
            asking.cancel()
        assert received.empty()
