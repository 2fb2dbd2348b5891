"""Work items, replies and dead letters."""

from __future__ import annotations

import asyncio
import time

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import ConfigError, DeadlineExceeded, Missing, WireError
from fedbroker.transport import Dead
from fedbroker.wire import Limits, digest_of, encode
from fedbroker.wire.messages import Done, EndSession, Failed, Need, WorkItem
from tests.support.proxy import Proxy
from tests.support.transports import coordinator_transport, eventually, queue_admin, silo_transport, work_item


async def test_request_returns_its_reply(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        item = work_item("ewr", coordinator.transport.coordinator_id)
        done = await coordinator.transport.request(item, {}, Deadline.after(5))
        assert done == Done("s1", 0, "ewr", silo.incarnation, ((digest_of(b"ok"), 2),), 0.0)
        assert silo.items == [item]
        assert bytes(await coordinator.transport.results.get(digest_of(b"ok"), Deadline.after(0.1))) == b"ok"


async def test_small_blobs_travel_in_the_message_in_both_directions(broker: PrivateBroker, cohort: str) -> None:
    blobs = {digest_of(data): data for data in (b"", b"a", b"b" * 16384)}
    async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort) as coordinator:
        item = work_item(
            "ewr", coordinator.transport.coordinator_id, blobs={digest: len(data) for digest, data in blobs.items()}
        )
        done = await coordinator.transport.request(item, blobs, Deadline.after(5))
        assert isinstance(done, Done)
        assert {digest for digest, _ in done.outputs} == set(blobs)
        for digest, data in blobs.items():
            assert digest in coordinator.transport.results
            assert bytes(await coordinator.transport.results.get(digest, Deadline.after(0.1))) == data


async def test_failures_and_needs_are_replies(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        failed = Failed("s1", 0, "ewr", silo.incarnation, "data", "no such column", "add it")
        need = Need("s1", 1, "ewr", silo.incarnation, ("d" * 32,))
        answers = {0: failed, 1: need}

        async def answer(item: WorkItem) -> None:
            await silo.transport.reply(item, answers[item.stage], {}, Deadline.after(5))

        silo.answer = answer
        for stage, expected in answers.items():
            item = work_item("ewr", coordinator.transport.coordinator_id, stage=stage)
            assert await coordinator.transport.request(item, {}, Deadline.after(5)) == expected


async def test_sixteen_handlers_run_at_once(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        everybody = asyncio.Barrier(16)

        async def answer(item: WorkItem) -> None:
            await everybody.wait()
            await silo.echo(item)

        silo.answer = answer
        answers = await asyncio.gather(*(coordinator.ask("ewr", stage) for stage in range(16)))
        assert answers == [b"ok"] * 16


async def test_two_coordinators_receive_their_own_replies(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as one,
        coordinator_transport(broker.url, cohort) as other,
    ):
        assert await asyncio.gather(*(end.ask("ewr", stage) for stage in range(10) for end in (one, other)))
        assert len(silo.items) == 20
        assert (one.transport.late, other.transport.late) == (0, 0)


async def test_work_for_a_silo_without_a_queue_is_unroutable(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator:
        answer = await coordinator.transport.request(
            work_item("nobody", coordinator.transport.coordinator_id), {}, Deadline.after(5)
        )
        assert answer == Dead("nobody", "s1", 0, "unroutable")


@pytest.mark.alone
async def test_work_that_no_silo_consumes_expires(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        await silo.transport.drain()
        started = time.monotonic()
        answer = await coordinator.transport.request(
            work_item("ewr", coordinator.transport.coordinator_id), {}, Deadline.after(0.5)
        )
        assert answer == Dead("ewr", "s1", 0, "expired")
        assert 0.4 < time.monotonic() - started < 0.75
        assert silo.items == []
        async with queue_admin(broker.url) as look:
            assert await look.depth(f"fedbroker.dead.{cohort}") == 1


async def test_work_without_a_reply_exceeds_its_deadline(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        release = silo.gated()
        with pytest.raises(DeadlineExceeded, match="silo 'ewr' did not answer stage 3") as caught:
            await coordinator.transport.request(
                work_item("ewr", coordinator.transport.coordinator_id, stage=3), {}, Deadline.after(0.4)
            )
        assert (caught.value.silos, caught.value.stage, caught.value.session) == (("ewr",), 3, "s1")
        release.set()
        await eventually(lambda: coordinator.transport.late == 1)
        assert await coordinator.ask("ewr", 4) == b"ok"


async def test_cancelled_request_ignores_its_reply(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        release = silo.gated()
        request = asyncio.create_task(coordinator.ask("ewr"))
        await eventually(lambda: len(silo.items) == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        release.set()
        await eventually(lambda: coordinator.transport.late == 1)
        assert await coordinator.ask("ewr") == b"ok"


async def test_damaged_work_item_is_rejected_and_the_next_one_is_handled(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
    ):
        key = f"{cohort}.ewr.{coordinator.transport.coordinator_id}"
        whole = encode(work_item("ewr", coordinator.transport.coordinator_id))
        for body in (
            b"",
            b"junk",
            whole[:-3],
            encode(EndSession("s1")),
            encode(work_item("jfk", coordinator.transport.coordinator_id)),
        ):
            await look.publish("fedbroker.work", key, body, correlation_id="s1.0.jfk" if b"jfk" in body else None)
        assert await coordinator.ask("ewr") == b"ok"
        assert len(silo.items) == 1
        await eventually(
            lambda: coordinator.transport.late == 1
        )  # the item for another silo is valid, but belongs to no request
        await eventually(lambda: look.holds(f"fedbroker.dead.{cohort}", 5))


async def test_rejected_work_item_fails_its_request_immediately(broker: PrivateBroker, cohort: str) -> None:
    limits = Limits(max_ops=50)
    blobs = {f"{number:032x}": 0 for number in range(51)}
    async with (
        silo_transport(broker.url, cohort, limits=limits),
        coordinator_transport(broker.url, cohort) as coordinator,
    ):
        item = work_item("ewr", coordinator.transport.coordinator_id, blobs=blobs)
        assert await coordinator.transport.request(item, {}, Deadline.after(5)) == Dead("ewr", "s1", 0, "rejected")


async def test_unacknowledged_work_reaches_the_delivery_limit(broker: PrivateBroker, cohort: str) -> None:
    async with (
        Proxy(broker.url) as proxy,
        silo_transport(proxy.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
    ):
        never = asyncio.Event()

        async def answer(_: WorkItem) -> None:
            await never.wait()

        silo.answer = answer
        item = work_item("ewr", coordinator.transport.coordinator_id, seconds=30)
        request = asyncio.create_task(coordinator.transport.request(item, {}, Deadline.after(30)))
        await eventually(lambda: len(silo.items) == 1)
        (holding,) = silo.transport._work_consumer._in_flight.values()  # one handler for all deliveries
        for deliveries in range(1, 5):
            await eventually(lambda expected=deliveries: len(holding._deliveries) == expected)
            proxy.cut()
        assert await request == Dead("ewr", "s1", 0, "delivery_limit")
        assert len(silo.items) == 1


async def test_failing_handler_does_not_stop_the_silo(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:

        async def answer(item: WorkItem) -> None:
            if item.stage == 0:
                raise ValueError("boom")
            await silo.echo(item)

        silo.answer = answer
        with pytest.raises(DeadlineExceeded):
            await coordinator.ask("ewr", 0, seconds=0.3)
        assert await coordinator.ask("ewr", 1) == b"ok"
        assert len(silo.items) == 2


async def test_reply_in_another_silos_name_is_dropped(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort) as silo,
        silo_transport(broker.url, cohort, "jfk") as forger,
        coordinator_transport(broker.url, cohort) as coordinator,
    ):

        async def forge(item: WorkItem) -> None:
            forged = Done(item.session_id, item.stage, "ewr", silo.incarnation, ((digest_of(b"bad"), 3),), 0.0)
            await forger.transport.reply(item, forged, {digest_of(b"bad"): b"bad"}, Deadline.after(5))

        forger.answer = forge
        with pytest.raises(DeadlineExceeded):
            await coordinator.ask("jfk", seconds=0.4)
        assert digest_of(b"bad") not in coordinator.transport.results
        assert await coordinator.ask("ewr") == b"ok"


async def test_damaged_replies_are_dropped(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort),
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
    ):
        for body in (b"", b"junk", encode(EndSession("s1"))):
            await look.publish("fedbroker.reply", f"{coordinator.transport.coordinator_id}.s1.0.ewr", body)
        assert await coordinator.ask("ewr") == b"ok"


async def test_silo_is_notified_of_a_sessions_end(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        await coordinator.transport.end_session("ewr", "s1")
        await coordinator.transport.end_session("nobody", "s1")
        await eventually(lambda: silo.ended == [EndSession("s1")])


async def test_draining_silo_answers_its_current_work(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        release = silo.gated()
        request = asyncio.create_task(coordinator.ask("ewr"))
        await eventually(lambda: len(silo.items) == 1)
        await silo.transport.drain()
        await eventually(lambda: len(coordinator.leaves) == 1)
        release.set()
        assert await request == b"ok"


async def test_current_work_is_requeued_when_a_silo_closes(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator:
        async with silo_transport(broker.url, cohort) as silo:
            never = asyncio.Event()

            async def answer(_: WorkItem) -> None:
                await never.wait()

            silo.answer = answer
            request = asyncio.create_task(coordinator.ask("ewr"))
            await eventually(lambda: len(silo.items) == 1)
        async with silo_transport(broker.url, cohort) as successor:
            assert await request == b"ok"
            assert len(successor.items) == 1


async def test_oversized_request_is_a_wire_error(broker: PrivateBroker, cohort: str) -> None:
    limits = Limits(max_message=2000)
    async with coordinator_transport(broker.url, cohort, limits=limits) as coordinator:
        with pytest.raises(WireError, match=r"the limit is 2000 \(max_message\); .* raise max_message"):
            await coordinator.transport.request(
                work_item("ewr", coordinator.transport.coordinator_id), {"d": b"x" * 2000}, Deadline.after(5)
            )


async def test_pending_requests_end_when_the_coordinator_closes(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo:
        never = asyncio.Event()

        async def answer(_: WorkItem) -> None:
            await never.wait()

        silo.answer = answer
        async with coordinator_transport(broker.url, cohort) as coordinator:
            request = asyncio.create_task(coordinator.ask("ewr"))
            getting = asyncio.create_task(coordinator.transport.results.get("d", Deadline.after(20), 20))
            await eventually(lambda: len(silo.items) == 1)
        with pytest.raises(DeadlineExceeded, match="connection was closed"):
            await request
        with pytest.raises(Missing):
            await getting


@pytest.mark.parametrize("name", ["", "A", "a.b", "#"])
async def test_names_are_checked(name: str) -> None:
    with pytest.raises(ConfigError):
        async with coordinator_transport("amqp://localhost/", name):
            pass
    with pytest.raises(ConfigError):
        async with silo_transport("amqp://localhost/", "c", name):
            pass
