"""A broker operator who reads, changes, copies, reorders and drops: no forgery has an effect, all are reported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Missing
from fedbroker.transport.coordinator.requests import Dead
from fedbroker.trust import Identity
from fedbroker.trust.keyring import Keys
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Announce, Done
from tests.support.broker_operator import BrokerOperator, InterceptedMessage, broker_operator
from tests.support.transports import (
    EchoSilo,
    RecordingCoordinator,
    coordinator_transport,
    eventually,
    queue_admin,
    silo_transport,
    work_item,
)

COORDINATOR, EWR, JFK = Identity.generate(), Identity.generate(), Identity.generate()
SILOS = {"ewr": EWR.public, "jfk": JFK.public}
LARGE = bytes(range(256)) * 4096  # 1 MiB: sent as bulk messages


def coordinators(*, seal: bool) -> Keys:
    return Keys(COORDINATOR, SILOS, seal)


def silos(own: Identity, *, seal: bool) -> Keys:
    return Keys(own, {"coordinator": COORDINATOR.public}, seal)


@dataclass
class Scene:
    """A coordinator, two silos, and an operator between them."""

    cohort: str
    coordinator: RecordingCoordinator
    ewr: EchoSilo
    jfk: EchoSilo
    operator: BrokerOperator

    async def ask(self, blob: bytes = b"", *, silo: str = "ewr", stage: int = 0, seconds: float = 9) -> Done | Dead:
        """Request a blob back, if one is given; it is sent as bulk messages in both directions."""
        end, deadline = self.coordinator.transport, Deadline.after(seconds)
        digest = digest_of(blob)
        if blob:
            await end.send_blob(digest, blob, silo=None, deadline=deadline, session_id="s1")
        item = work_item(
            silo, end.coordinator_id, stage=stage, blobs={digest: len(blob)} if blob else None, seconds=seconds
        )
        async with end.start_request(item, {}, deadline) as asked:
            answer = await asked.next_response()
            if isinstance(answer, Done):
                for name, _ in answer.outputs:
                    await end.results.get(name, deadline)
            return answer


@contextlib.asynccontextmanager
async def scene(broker: PrivateBroker, cohort: str, *, seal: bool) -> AsyncIterator[Scene]:
    async with (
        silo_transport(broker.url, cohort, "ewr", keys=silos(EWR, seal=seal)) as ewr,
        silo_transport(broker.url, cohort, "jfk", keys=silos(JFK, seal=seal)) as jfk,
        coordinator_transport(broker.url, cohort, keys=coordinators(seal=seal)) as coordinator,
        broker_operator(broker.url) as between,
    ):
        await eventually(lambda: coordinator.silos == {"ewr", "jfk"})
        key = coordinator.transport.coordinator_id
        for silo in ("ewr", "jfk"):
            await between.intercept(f"fedbroker.work.{cohort}.{silo}", "fedbroker.work", f"{cohort}.{silo}.*")
        await between.intercept(f"fedbroker.callback.{key}", "fedbroker.reply", f"{key}.#")
        await between.intercept(f"fedbroker.results.{key}", "fedbroker.results", f"{key}.*")
        yield Scene(cohort, coordinator, ewr, jfk, between)


sealing = pytest.mark.parametrize("seal", [False, True], ids=["signed", "sealed"])


@sealing
async def test_passive_operator_has_no_effect(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        for silo in ("ewr", "jfk"):
            assert isinstance(await on.ask(silo=silo), Done)
            assert isinstance(await on.ask(LARGE, silo=silo, stage=1), Done)
            assert await on.coordinator.transport.results.get(digest_of(LARGE), Deadline.after(5)) == LARGE
        assert on.coordinator.forged == []
        read = b"".join(passing.body for passing in on.operator.seen)
        assert (b"coordinator_id" in read, LARGE[:1000] in read) == (not seal, not seal)


def flipped(passing: InterceptedMessage, at: int) -> InterceptedMessage:
    body = bytearray(passing.body)
    body[at] ^= 1
    return passing.with_body(bytes(body))


@sealing
@pytest.mark.parametrize("at", [3, 20, 30, 60, -70, -1])
async def test_edited_work_is_refused(broker: PrivateBroker, cohort: str, seal: bool, at: int) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        on.operator.change = lambda one: [flipped(one, at)] if "work" in one.queue else [one]
        assert await on.ask() == Dead("ewr", "s1", 0, "rejected")
        assert on.ewr.items == []
        on.operator.change = lambda one: [one]
        assert isinstance(await on.ask(stage=1), Done)
        ((silo, session, why),) = on.coordinator.forged  # the silo reports it with its next reply
        assert (silo, session) == ("ewr", "s1")
        assert why.startswith("at the silo: work: ")


@sealing
@pytest.mark.parametrize("at", [3, 20, 30, 60, -70, -1])
async def test_edited_reply_is_ignored_in_favour_of_the_authentic_one(
    broker: PrivateBroker, cohort: str, seal: bool, at: int
) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        on.operator.change = lambda one: [flipped(one, at), one] if "callback" in one.queue else [one]
        assert isinstance(await on.ask(), Done)  # the authentic reply, behind it
        ((silo, session, why),) = on.coordinator.forged
        assert (silo, session) == ("ewr", "s1")
        assert "sign" in why or "known" in why or "version" in why


@sealing
async def test_silo_whose_only_reply_is_edited_is_a_straggler(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        on.operator.change = lambda one: [flipped(one, -70)] if "callback" in one.queue else [one]
        with pytest.raises(DeadlineExceeded):
            await on.ask(seconds=1)
        assert len(on.coordinator.forged) == 1


@sealing
async def test_edited_results_are_never_used(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        on.operator.change = lambda one: [flipped(one, -100)] if "results" in one.queue else [one]
        with pytest.raises((Missing, DeadlineExceeded)):
            await on.ask(LARGE, seconds=2)
        assert digest_of(LARGE) not in on.coordinator.transport.results


@sealing
async def test_replayed_work_runs_once(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        assert isinstance(await on.ask(), Done)
        (first,) = [one for one in on.operator.seen if "work" in one.queue]
        again = InterceptedMessage(first.queue, first.key, first.body, {**first.properties, "message_id": "another"})
        await on.operator.send(again)
        assert isinstance(await on.ask(stage=1), Done)
        assert len(on.ewr.items) == 2
        ((silo, _, why),) = on.coordinator.forged
        assert silo == "ewr"
        assert "received again" in why


@sealing
async def test_old_reply_is_refused_for_other_work(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        assert isinstance(await on.ask(), Done)
        (old,) = [one for one in on.operator.seen if "callback" in one.queue]
        key = old.key.replace(".0.", ".1.")
        held = on.ewr.gated()
        on.operator.change = lambda one: (
            [InterceptedMessage(old.queue, key, old.body, {**old.properties, "correlation_id": "s1.1.ewr"}), one]
            if "work" in one.queue
            else [one]
        )
        asked = asyncio.create_task(on.ask(stage=1))
        await eventually(lambda: bool(on.coordinator.forged))
        assert not asked.done()
        held.set()
        assert isinstance(await asked, Done)


@sealing
async def test_work_for_another_silo_is_refused(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        to_jfk = f"fedbroker.work.{cohort}.jfk"
        on.operator.change = lambda one: [one.to(to_jfk)] if one.queue.endswith(".ewr") else [one]
        assert await on.ask() == Dead("ewr", "s1", 0, "rejected")
        assert on.jfk.items == []


@sealing
async def test_reply_of_another_silo_is_refused(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        on.operator.change = lambda one: (
            [InterceptedMessage(one.queue, one.key.replace(".jfk", ".ewr"), one.body, one.properties)]
            if "callback" in one.queue and one.key.endswith(".jfk")
            else [one]
        )
        with pytest.raises(DeadlineExceeded):
            await on.ask(silo="jfk", seconds=1)
        ((silo, _, _),) = on.coordinator.forged
        assert silo == "ewr"  # the named silo


@sealing
async def test_silo_whose_messages_are_dropped_is_a_straggler(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with scene(broker, cohort, seal=seal) as on:
        on.operator.change = lambda one: [] if "callback" in one.queue else [one]
        with pytest.raises(DeadlineExceeded):
            await on.ask(seconds=1)
        assert on.coordinator.forged == []


async def test_work_and_notices_of_an_unknown_key_are_refused(broker: PrivateBroker, cohort: str) -> None:
    stranger = Identity.generate()
    async with scene(broker, cohort, seal=False) as on:
        for keys in (None, Keys(stranger, SILOS)):
            async with coordinator_transport(broker.url, cohort, keys=keys) as other:
                item = work_item("ewr", other.transport.coordinator_id, session="s2")
                answer = await other.transport.request(item, {}, Deadline.after(5))
                assert answer == Dead("ewr", "s2", 0, "rejected")
                await other.transport.end_session("ewr", "s1")
        assert on.ewr.items == []
        assert on.ewr.ended == []
        assert isinstance(await on.ask(), Done)
        assert len(on.coordinator.forged) >= 2


async def test_announcement_of_an_unknown_key_is_ignored(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort, keys=coordinators(seal=False)) as coordinator:
        async with (
            silo_transport(broker.url, cohort, "ewr", keys=silos(JFK, seal=False)),  # with another silo's key
            silo_transport(broker.url, cohort, "lga", keys=silos(Identity.generate(), seal=False)),
            silo_transport(broker.url, cohort, "bos"),
        ):
            await eventually(lambda: {one[0] for one in coordinator.forged} >= {"ewr", "lga", "bos"})
        assert coordinator.announces == []


async def test_silo_that_requires_sealing_refuses_unsealed_work(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort, "ewr", keys=silos(EWR, seal=True)) as silo,
        coordinator_transport(broker.url, cohort, keys=coordinators(seal=False)) as coordinator,
    ):
        answer = await coordinator.transport.request(
            work_item("ewr", coordinator.transport.coordinator_id), {}, Deadline.after(5)
        )
        assert answer == Dead("ewr", "s1", 0, "rejected")
        assert silo.items == []


async def test_reply_to_sealed_work_is_sealed(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort, "ewr", keys=silos(EWR, seal=False)),
        coordinator_transport(broker.url, cohort, keys=coordinators(seal=True)) as coordinator,
    ):
        assert await coordinator.ask("ewr") == b"ok"


async def test_sealed_broadcast_is_published_once(broker: PrivateBroker, cohort: str) -> None:
    async with scene(broker, cohort, seal=True) as on, queue_admin(broker.url) as look:
        await look.declare("copies", ("fedbroker.blobs", cohort), auto_delete=True)
        data = LARGE[:100_000]
        digest = digest_of(data)
        await on.coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(9), session_id="s1")
        await eventually(lambda: look.holds("copies", 1))
        for silo in ("ewr", "jfk"):
            item = work_item(silo, on.coordinator.transport.coordinator_id, blobs={digest: len(data)})
            async with on.coordinator.transport.start_request(item, {}, Deadline.after(9)) as asked:
                assert isinstance(await asked.next_response(), Done)
        assert await look.depth("copies") == 1
        await look.delete("copies")


async def test_announcements_are_signed(broker: PrivateBroker, cohort: str) -> None:
    async with scene(broker, cohort, seal=True) as on:
        assert all(isinstance(one, Announce) for one in on.coordinator.announces)
        assert on.coordinator.forged == []
