"""Outcomes of the silos of a failed stage, over a real broker: a silo that was in time is not late."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import SiloError
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.events import Event
from fedbroker.session.ports import StageWork
from fedbroker.wire.messages import Compute, Failed, WorkItem
from tests.support.recorded_outputs import RecordedOutputs
from tests.support.transports import eventually, silo_transport

SILOS = ("ewr", "jfk")


async def test_silo_that_was_in_time_is_cancelled_when_another_fails(broker: PrivateBroker, cohort: str) -> None:
    events: list[Event] = []
    async with (
        silo_transport(broker.url, cohort, "ewr") as failing,
        silo_transport(broker.url, cohort, "jfk") as working,
        CoordinatorCohort(broker.url, cohort, listeners=(events.append,)) as ours,
        asyncio.timeout(60),
    ):
        gate = working.gated()

        async def fail(item: WorkItem) -> None:
            await eventually(lambda: len(working.items) == 1)
            failed = Failed(item.session_id, item.stage, "ewr", failing.incarnation, "data", "no such table")
            await failing.transport.reply(item, failed, {}, Deadline.after(30))

        failing.answer = fail
        members = await ours.gather(2, 30.0)
        session = await ours.session(members, dict.fromkeys(SILOS, 1), 30.0)
        work = StageWork(0, True, dict.fromkeys(SILOS, (Compute(1),)), {}, RecordedOutputs())
        with pytest.raises(SiloError, match="no such table") as caught:
            await session.run_stage(work)
        await session.close(caught.value)
        gate.set()  # the reply of the other silo is not wanted any more
        await eventually(lambda: ours.statistics().late == 1)
        assert session.recorder.report.dropped == {"ewr": "failed", "jfk": "cancelled"}
        assert session.recorder.report.late == 0
        assert not [event for event in events if event.name == "late_reply"]
