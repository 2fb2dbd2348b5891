"""A silo that floods or sends garbage is dropped from the session and named; other silos' results are intact."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.ports import StageWork
from fedbroker.session.stage_state import Policy
from fedbroker.wire import Limits
from fedbroker.wire.messages import Compute
from tests.support.recorded_outputs import RecordedOutputs
from tests.support.transports import eventually, queue_admin, silo_transport

LIMITS = Limits(max_strikes=20)


async def flood_of_garbage(look, key, work):
    for _ in range(LIMITS.max_strikes + 1):
        await look.publish("fedbroker.reply", f"{key}.{work.session_id}.0.mallory", b"garbage")


async def flood_of_answers(look, key, work):
    """Publish its own well-formed replies to an unknown session."""
    from fedbroker.wire import encode
    from fedbroker.wire.messages import Done

    body = encode(Done("none", 0, "mallory", "1", (), 0.0))
    for _ in range(LIMITS.max_strikes + 1):
        await look.publish("fedbroker.reply", f"{key}.none.0.mallory", body)


async def flood_of_chunks(look, key, work):
    for _ in range(LIMITS.max_strikes + 1):
        await look.publish("fedbroker.results", f"{key}.mallory", b"no chunk at all")


async def bad_answer(look, key, work):
    """Publish a reply in another silo's name, under its own routing key."""
    from fedbroker.wire import digest_of, encode
    from fedbroker.wire.messages import Done

    forged = encode(Done(work.session_id, 0, "ewr", "1", ((digest_of(b"9"), 1),), 0.0), [b"9"])
    for _ in range(LIMITS.max_strikes + 1):
        await look.publish("fedbroker.reply", f"{key}.{work.session_id}.0.mallory", forged)


@pytest.mark.parametrize("flood", [flood_of_garbage, flood_of_answers, flood_of_chunks, bad_answer])
async def test_flooding_silo_is_dropped_and_other_results_are_intact(broker: PrivateBroker, cohort: str, flood):
    ours = CoordinatorCohort(broker.url, cohort, limits=LIMITS)
    async with (
        ours,
        silo_transport(broker.url, cohort, "ewr") as good,
        silo_transport(broker.url, cohort, "mallory") as bad,
    ):
        asked: list = []
        release = asyncio.Event()

        async def never(item):
            asked.append(item)

        async def later(item):
            await release.wait()
            await good.send(item, [b"good"], Deadline.after(10))

        bad.answer, good.answer = never, later
        members = await ours.gather(2, 60.0)
        session = await ours.session(members, {"ewr": 1, "mallory": 1}, 30.0, policy=Policy("drop", 1))
        programs = dict.fromkeys(("ewr", "mallory"), (Compute(1),))
        replies = RecordedOutputs()
        running = asyncio.create_task(session.run_stage(StageWork(0, True, programs, {}, replies)))
        await eventually(lambda: bool(asked))
        async with queue_admin(broker.url) as look:
            await flood(look, ours._transport.coordinator_id, asked[0])
        await eventually(lambda: dict(session.recorder._silos).get("mallory") is not None)
        assert not running.done()
        release.set()
        await running
        assert {silo: [bytes(out) for out in outputs] for silo, outputs in replies.outputs.items()} == {
            "ewr": [b"good"]
        }
        await session.close()
        report = session.recorder.report
        assert dict(report.dropped) == {"mallory": "refused"}
        assert "more than 20 invalid or unrequested messages" in report.stages[0].silos[1].why


async def test_invalid_messages_within_the_limit_have_no_effect(broker: PrivateBroker, cohort: str):
    ours = CoordinatorCohort(broker.url, cohort, limits=LIMITS)
    async with ours, silo_transport(broker.url, cohort, "mallory") as silo:
        members = await ours.gather(1, 60.0)
        session = await ours.session(members, {"mallory": 1}, 30.0)
        arrived = asyncio.Event()

        async def after_garbage(item):
            async with queue_admin(broker.url) as look:
                for _ in range(LIMITS.max_strikes):
                    await look.publish(
                        "fedbroker.reply", f"{ours._transport.coordinator_id}.{item.session_id}.0.mallory", b"garbage"
                    )
            await silo.send(item, [b"fine"], Deadline.after(10))
            arrived.set()

        silo.answer = after_garbage
        replies = RecordedOutputs()
        await session.run_stage(StageWork(0, True, {"mallory": (Compute(1),)}, {}, replies))
        assert bytes(replies["mallory"][0]) == b"fine"
        await session.close()
