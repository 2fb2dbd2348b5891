"""Under any behaviour of silos and network, the sum equals the report: no silo lost, no silo counted twice."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError, SiloError, StragglerTimeout
from fedbroker.session.ports import LateJoiner, StageWork
from fedbroker.session.report import Recorder, SessionReport
from fedbroker.session.roster import BlobCacheIndex, Member
from fedbroker.session.session import Session
from fedbroker.session.stage_state import Policy
from fedbroker.transport.coordinator.transport import CoordinatorTransport
from fedbroker.wire.messages import Compute
from tests.support.recorded_outputs import RecordedOutputs
from tests.support.simulated_network import SimulatedNetwork, SimulatedReply, run_on_virtual_clock

SECONDS = 10.0
MEMBERS = tuple(Member(name, "1") for name in ("bos", "ewr", "jfk", "lga"))
SPARE = tuple(Member(name, "1") for name in ("ord", "sfo"))
EVERYBODY = tuple(member.name for member in (*MEMBERS, *SPARE))

times = st.floats(0.0, 1.5 * SECONDS)
replies = st.lists(
    st.builds(SimulatedReply, times, st.sampled_from(["done", "done", "done", "lost", "data", "dead"])), max_size=4
)
policies = st.builds(
    Policy,
    st.sampled_from(["fail", "drop", "replace"]),
    st.integers(1, 4) | st.floats(0.1, 1.0),
    st.none() | st.floats(0.0, SECONDS),
)


def value(silo: str, stage: int) -> int:
    return 10 ** EVERYBODY.index(silo) * (stage + 1)


@st.composite
def schedules(draw):
    stages = draw(st.integers(1, 3))
    return stages, {(silo, stage): draw(replies) for silo in EVERYBODY for stage in range(stages)}


@settings(max_examples=400)
@given(schedules(), policies, st.lists(times, max_size=2), st.none() | st.floats(1.0, 3 * SECONDS))
def test_sum_is_over_exactly_the_reported_participants(schedule, policy, arrivals, limit):
    run_on_virtual_clock(lambda: play(schedule, policy, arrivals, limit))


async def play(schedule, policy, arrivals, limit):
    stages, script = schedule
    answers = []
    end = CoordinatorTransport(
        "amqp://localhost/",
        "c",
        on_announce=print,
        on_leave=print,
        on_late=lambda late: one.recorder.late(late.silo, late.stage),
    )
    network = SimulatedNetwork(end, lambda silo, stage: script.get((silo, stage), ()), value)
    began = time.monotonic()
    spare = [(began + after, member) for after, member in zip(sorted(arrivals), SPARE, strict=False)]
    one = Session("s", end, BlobCacheIndex(), MEMBERS, {member.name: 1 for member in MEMBERS}, SECONDS, policy=policy)
    one.late_joiner = lambda fits: joiner(spare, fits)
    one.recorder = Recorder(SessionReport(session="s", cohort="c", members=one.participants))
    if limit is not None:
        one.deadline = Deadline.after(limit)
    error = None
    out = set()
    try:
        for stage in range(stages):
            entered = time.monotonic()
            programs = dict.fromkeys(EVERYBODY, (Compute(1),))
            enlist = (lambda member, straggler: LateJoiner((Compute(1),), 1)) if stage == 0 else None
            got = RecordedOutputs()
            participants = await one.run_stage(StageWork(stage, stage == stages - 1, programs, {}, got, enlist=enlist))
            answers.append(sum(int(bytes(outputs[0])) for outputs in got.outputs.values()))
            report = one.recorder.report.stages[-1]
            assert time.monotonic() - entered <= SECONDS + 0.6
            assert tuple(got) == participants == report.participants == one.participants
            assert answers[-1] == sum(value(silo, stage) for silo in report.participants)
            assert len(report.participants) >= (4 if policy.stragglers == "fail" else policy.needed(4))
            assert not out & set(report.participants)
            out |= set(report.dropped)
    except FedbrokerError as caught:
        error = caught
    await one.close(error)
    await network.quiet()
    assert isinstance(error, SiloError | StragglerTimeout | None)
    report = one.recorder.report
    assert len(report.stages) == len(answers) + (error is not None)
    delivered = sum(len(script.get(asked, ())) for asked in network.sent)
    endings = [silo.outcome for stage in report.stages for silo in stage.silos]
    unheard = endings.count("late") + endings.count("timed out") + endings.count("cancelled")
    settled = len(endings) - unheard
    assert report.late == end.late or ("cancelled" in endings and report.late < end.late)
    # A reply at the very moment at which its stage closed was read, and is not counted as late; it may still have
    # missed its silo's deadline.
    assert delivered - settled - unheard <= end.late <= delivered - settled
    assert len(end._router) == 0


async def joiner(spare, fits):
    for at, member in spare:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        if fits(member):
            return member
    return await asyncio.Event().wait()
