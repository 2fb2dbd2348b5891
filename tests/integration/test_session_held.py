"""Large results wait at their silo until the coordinator has room, over a real broker; none is kept afterwards."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded
from fedbroker.session import merge_scheduler, silo_request, stage_runner
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.merge_scheduler import MergeScheduler
from fedbroker.session.ports import StageWork
from fedbroker.session.stage_state import Policy
from fedbroker.transport import Dead
from fedbroker.wire.messages import Compute
from tests.support.recorded_outputs import RecordedOutputs
from tests.support.transports import coordinator_transport, eventually, silo_transport, work_item

MIB = 1 << 20
SILOS = ("bos", "ewr", "jfk", "lga", "ord")
THREE = SILOS[:3]


def result(silo):
    return silo.encode() * (MIB // 2)  # 1.5 MiB


@asynccontextmanager
async def cohort_of(broker, cohort, names=SILOS, **options):
    """Open a cohort whose silos reply with large results, and a session of it."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(CoordinatorCohort(broker.url, cohort))
        silos = {}
        for name in names:
            silo = silos[name] = await stack.enter_async_context(silo_transport(broker.url, cohort, name))

            async def answer(item, silo=silo):
                await silo.send(item, [result(silo.name)], Deadline.after(30))

            silo.answer = answer
        members = await ours.gather(len(names), 60.0)
        yield ours, silos, await ours.session(members, dict.fromkeys(names, 1), 30.0, **options)


def stage(merges, names=SILOS):
    return StageWork(0, True, dict.fromkeys(names, (Compute(1),)), {}, merges)


@pytest.fixture(autouse=True)
def few_send_unasked(monkeypatch):
    """Limit unasked results, as with a thousand silos: three silos share 128 MiB without any limit."""
    monkeypatch.setattr(
        stage_runner,
        "upload_allowance",
        lambda silos, least: merge_scheduler.upload_allowance(
            silos if silos <= merge_scheduler.UPLOADS else 1000, least
        ),
    )


async def test_results_are_sent_on_request(broker, cohort):
    async with coordinator_transport(broker.url, cohort) as ours, silo_transport(broker.url, cohort) as silo:
        silo.answer = lambda item: silo.send(item, [result("ewr"), b"small"], Deadline.after(20))
        item = msgspec.structs.replace(work_item("ewr", ours.transport.coordinator_id), defer_above=MIB)
        done = await ours.transport.request(item, {}, Deadline.after(20))
        assert done.deferred
        (large, _), (small, _) = done.outputs
        assert small in ours.transport.results
        assert large not in ours.transport.results
        await ours.transport.fetch("ewr", item.session_id, item.stage, "another incarnation")
        with pytest.raises(Exception, match="nothing came"):
            await ours.transport.results.get(large, Deadline.after(20), 0.3)
        await ours.transport.fetch("ewr", item.session_id, item.stage, silo.incarnation)
        assert await ours.transport.results.get(large, Deadline.after(20)) == result("ewr")


async def test_results_below_the_items_limit_are_sent_immediately(broker, cohort):
    async with coordinator_transport(broker.url, cohort) as ours, silo_transport(broker.url, cohort) as silo:
        silo.answer = lambda item: silo.send(item, [result("ewr")], Deadline.after(20))
        for hold in (0, 2 * MIB):
            item = msgspec.structs.replace(
                work_item("ewr", ours.transport.coordinator_id), defer_above=hold, session_id=f"s{hold}"
            )
            done = await ours.transport.request(item, {}, Deadline.after(20))
            assert not done.deferred
            assert await ours.transport.results.get(done.outputs[0][0], Deadline.after(20)) == result("ewr")


async def test_stage_merges_in_membership_order_and_keeps_no_result(broker, cohort):
    async with cohort_of(broker, cohort) as (ours, _, session):
        took = RecordedOutputs()
        assert await session.run_stage(stage(took)) == SILOS
        assert list(took) == list(SILOS)
        assert {silo: bytes(output) for silo, (output,) in took.outputs.items()} == {
            silo: result(silo) for silo in SILOS
        }
        assert session.recorder.report.stages[0].merge_order == "membership"
        assert ours._transport.results.kept_bytes == 0
        await session.close()


async def test_few_results_are_buffered_before_merging(broker, cohort, monkeypatch):
    monkeypatch.setattr(merge_scheduler, "ROOM", MIB)  # one result fills it
    async with cohort_of(broker, cohort, policy=Policy(merge_order="arrival")) as (_, _, session):
        merges, took = MergeScheduler("arrival"), []
        running = asyncio.create_task(session.run_stage(stage(merges)))
        for merged in range(len(SILOS)):
            await eventually(lambda: merges.is_batch_ready(1, MIB))
            assert len(merges.passed) == merged + 1
            (reply,) = merges.take_batch(1, MIB)
            took.append(reply.silo)
            merges.release([reply])
        assert set(await running) == set(took) == set(SILOS)
        await session.close()


async def test_equal_results_are_fetched_from_each_silo(broker, cohort):
    async with cohort_of(broker, cohort) as (_, silos, session):
        for silo in silos.values():

            async def answer(item, silo=silo):
                await silo.send(item, [result("all")], Deadline.after(30))

            silo.answer = answer
        took = RecordedOutputs()
        async with asyncio.timeout(10):
            assert await session.run_stage(stage(took)) == SILOS
        assert {bytes(output) for (output,) in took.outputs.values()} == {result("all")}
        await session.close()


async def test_lost_notice_only_delays_the_results(broker, cohort, monkeypatch):
    monkeypatch.setattr(silo_request, "RESULT_PATIENCE", 0.5)
    async with cohort_of(broker, cohort, THREE) as (ours, silos, session):

        async def lose(*_):
            pass

        monkeypatch.setattr(ours._transport, "fetch", lose)
        took = RecordedOutputs()
        assert await session.run_stage(stage(took, THREE)) == THREE
        assert took["ewr"] == [result("ewr")]
        assert [item.defer_above for item in silos["ewr"].items] == [MIB, 0]
        await session.close()


async def test_two_silos_send_without_a_request(broker, cohort):
    two = THREE[:2]
    async with cohort_of(broker, cohort, two) as (_, silos, session):
        took = RecordedOutputs()
        assert await session.run_stage(stage(took, two)) == two
        assert {silo: bytes(output) for silo, (output,) in took.outputs.items()} == {silo: result(silo) for silo in two}
        assert [item.defer_above for silo in silos.values() for item in silo.items] == [0, 0]
        await session.close()


async def test_silo_that_dies_with_results_is_dropped_when_its_work_returns(broker, cohort):
    async with coordinator_transport(broker.url, cohort) as ours, AsyncExitStack() as alive:
        silo = await alive.enter_async_context(silo_transport(broker.url, cohort))
        silo.answer = lambda item: silo.send(item, [result("ewr")], Deadline.after(30))
        item = msgspec.structs.replace(work_item("ewr", ours.transport.coordinator_id), defer_above=MIB)
        async with (
            ours.transport.start_request(item, {}, Deadline.after(30), unread=Deadline.after(1)) as asked,
            asyncio.timeout(10),
        ):
            assert (await asked.next_response()).deferred
            await alive.aclose()
            assert await asked.next_response() == Dead("ewr", item.session_id, item.stage, "expired")


async def test_successor_of_a_dead_silo_is_asked_for_the_results(broker, cohort, monkeypatch):
    async with cohort_of(broker, cohort, THREE) as (ours, silos, session), AsyncExitStack() as stack:
        tell, told = ours._transport.fetch, []

        async def fetch(silo, session, stage, incarnation):
            if silo == "ewr":
                told.append(incarnation)
            if silo != "ewr" or len(told) > 1:
                await tell(silo, session, stage, incarnation)
                return
            await silos["ewr"].transport.close()  # with its results
            again = await stack.enter_async_context(silo_transport(broker.url, cohort))
            again.answer = lambda item: again.send(item, [result("ewr")], Deadline.after(30))

        monkeypatch.setattr(ours._transport, "fetch", fetch)
        took = RecordedOutputs()
        async with asyncio.timeout(15):
            assert await session.run_stage(stage(took, THREE)) == THREE
        assert took["ewr"] == [result("ewr")]
        assert len(set(told)) == 2
        await session.close()


async def test_results_of_an_ended_session_are_released(broker, cohort):
    async with coordinator_transport(broker.url, cohort) as ours, silo_transport(broker.url, cohort) as silo:
        gate, over = asyncio.Event(), asyncio.Event()

        async def answer(item):
            await gate.wait()
            await silo.send(item, [result("ewr")], Deadline.after(60))
            over.set()

        silo.answer = answer
        item = msgspec.structs.replace(work_item("ewr", ours.transport.coordinator_id), defer_above=MIB)
        with pytest.raises(DeadlineExceeded):
            await ours.transport.request(item, {}, Deadline.after(0.3))
        gate.set()
        async with asyncio.timeout(10):
            await over.wait()
        assert ours.transport.late == 1


async def test_results_announced_twice_are_sent_once(broker, cohort):
    async with coordinator_transport(broker.url, cohort) as ours, silo_transport(broker.url, cohort) as silo:
        silo.answer = lambda item: silo.send(item, [result("ewr")], Deadline.after(30))
        item = msgspec.structs.replace(work_item("ewr", ours.transport.coordinator_id), defer_above=MIB)
        async with ours.transport.start_request(item, {}, Deadline.after(20)) as asked:
            first = await asked.next_response()
            again = asyncio.create_task(silo.answer(item))
            assert await asked.next_response() == first
            before = silo.transport.traffic["bulk"].bytes_out
            await ours.transport.fetch("ewr", item.session_id, item.stage, silo.incarnation)
            await again
            assert await ours.transport.results.get(first.outputs[0][0], Deadline.after(20)) == result("ewr")
        assert silo.transport.traffic["bulk"].bytes_out - before < 1.5 * len(result("ewr"))
