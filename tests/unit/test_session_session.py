"""A session over a lane of the test's own: what is asked of each silo, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest

from fedbroker.errors import BrokerLost, DeadlineExceeded, Missing, SiloError, StragglerTimeout, WireError
from fedbroker.session.ports import LateJoiner, StageWork
from fedbroker.session.report import Recorder, SessionReport
from fedbroker.session.roster import BlobCacheIndex, Member
from fedbroker.session.session import Session
from fedbroker.session.stage_state import Policy
from fedbroker.transport.coordinator.requests import Dead
from fedbroker.wire.messages import Compute, Done, Failed, Need, Value
from tests.support.recorded_outputs import RecordedOutputs

MEMBERS = (Member("ewr", "1"), Member("jfk", "1"))
BIG = b"model" * 10_000
SMALL = b"computation"
PROGRAM = (Value(1, "small"), Value(2, "big"), Compute(2))


class ScriptedAnswers:
    """The next ones of a list."""

    def __init__(self, script):
        self.script = script

    async def answer(self):
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return answer


class ScriptedLane:
    """Answers each silo's work items from a list; keeps what it was asked to do."""

    coordinator_id = "coordinator"

    def __init__(self, **answers):
        self.answers = {silo: list(script) for silo, script in answers.items()}
        self.items = {silo: [] for silo in answers}
        self.inline = {silo: [] for silo in answers}
        self.blobs = []
        self.ended = []
        self.stored = {}
        self.fetched = []
        self.comes_when_fetched = {}  # silo -> blobs
        self.comes_with = {}  # number of the request -> a blob

    @property
    def results(self):
        return self

    def __contains__(self, digest):
        return digest in self.stored

    async def get(self, digest, deadline, patience):
        if digest not in self.stored:
            raise Missing(digest, "lost")
        return self.stored[digest]

    def pinned(self, digests):
        return contextlib.nullcontext()

    def spent(self, digest):
        del self.stored[digest]

    async def fetch(self, silo, session_id, stage, incarnation):
        self.fetched.append(silo)
        self.stored |= self.comes_when_fetched.get(silo, {})

    async def send_blob(self, digest, data, *, silo, deadline, session_id=""):
        self.blobs.append((digest, silo))

    @contextlib.asynccontextmanager
    async def asking(self, item, inline, deadline, *, unread=None):
        self.items[item.silo].append(item)
        self.inline[item.silo].append(set(inline))
        if len(self.items[item.silo]) in self.comes_with:
            digest, blob = self.comes_with[len(self.items[item.silo])]
            self.stored[digest] = blob
        yield ScriptedAnswers(self.answers[item.silo])

    async def end_session(self, silo, session_id, incarnation):
        self.ended.append((silo, session_id, incarnation))


def done(silo, *digests):
    return Done("s", 0, silo, "1", tuple((digest, 1) for digest in digests), 0.1)


def need(silo, *digests):
    return Need("s", 0, silo, "1", digests)


def session(lane, known=None, **options):
    clients = {member.name: 1 for member in MEMBERS}
    one = Session("s", lane, known or BlobCacheIndex(), MEMBERS, clients, **({"stage_timeout": 5.0} | options))
    one.recorder = Recorder(SessionReport(session="s", cohort="c", members=one.participants))
    return one


async def run(one, asked):
    """Run a stage: each participant's outputs, in the order in which they were handed on."""
    participants = await one.run_stage(asked)
    assert tuple(asked.take) == participants
    return dict(asked.take)


def work(**options):
    programs = {member.name: PROGRAM for member in MEMBERS}
    return StageWork(0, True, programs, {"small": SMALL, "big": BIG}, RecordedOutputs(), **options)


class Model(bytearray):
    """Bytes that can be watched."""


async def test_models_are_let_go_without_the_garbage_collector():
    lane = ScriptedLane(ewr=[done("ewr")], jfk=[done("jfk")])
    model = Model(BIG)
    watched = weakref.ref(model)
    asked = StageWork(0, True, {m.name: PROGRAM for m in MEMBERS}, {"small": SMALL, "big": model}, RecordedOutputs())
    del model
    gc.collect()
    gc.disable()
    try:
        await session(lane).run_stage(asked)
        del asked
        assert watched() is None
    finally:
        gc.enable()


async def test_outputs_come_in_membership_order_and_nothing_is_sent_twice():
    lane = ScriptedLane(ewr=[done("ewr", "a")] * 2, jfk=[done("jfk", "b")] * 2)
    lane.stored = {"a": b"1", "b": b"2"}
    one = session(lane)
    assert await run(one, work()) == {"ewr": [b"1"], "jfk": [b"2"]}
    assert lane.blobs == [("big", None)]
    assert lane.inline["ewr"] == [{"small"}]
    assert lane.items["jfk"][0].incoming == {"big": len(BIG)}
    assert await run(one, work()) == {"ewr": [b"1"], "jfk": [b"2"]}
    assert lane.blobs == [("big", None)]
    assert lane.inline["ewr"][1] == set()


async def test_an_answer_that_makes_no_sense_is_its_silo_s_alone():
    def check(outputs, clients):
        assert clients == 1
        if outputs == [b"1"]:
            raise WireError("a value is not of the type float32")

    lane = ScriptedLane(ewr=[done("ewr", "a")], jfk=[done("jfk", "b")])
    lane.stored = {"a": b"1", "b": b"2"}
    one = session(lane, policy=Policy(quorum=1, stragglers="drop"))
    assert await run(one, work(check=check)) == {"jfk": [b"2"]}
    lane = ScriptedLane(ewr=[done("ewr", "a")], jfk=[done("jfk", "b")])
    lane.stored = {"a": b"1", "b": b"2"}
    with pytest.raises(SiloError, match=r"'ewr'.*makes no sense: a value is not of the type float32"):
        await session(lane).run_stage(work(check=check))


async def test_a_silo_that_lacks_blobs_gets_them_alone_and_still_waits_for_what_is_on_its_way():
    known = BlobCacheIndex()
    known.add(MEMBERS[0], ["small"])
    lane = ScriptedLane(ewr=[need("ewr", "small"), done("ewr", "a")], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    await run(session(lane, known), work())
    assert lane.inline["ewr"] == [set(), {"small"}]
    assert [set(item.incoming) for item in lane.items["ewr"]] == [{"big"}, {"big"}]
    assert lane.blobs == [("big", None)]


async def test_a_large_blob_that_was_lost_goes_to_that_silo_alone():
    lane = ScriptedLane(ewr=[need("ewr", "big"), done("ewr", "a")], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    await run(session(lane), work())
    assert sorted(lane.blobs, key=str) == [("big", "ewr"), ("big", None)]


async def test_a_silo_that_never_has_enough_fails_by_name():
    lane = ScriptedLane(ewr=[need("ewr", "big")] * 9, jfk=[None])
    with pytest.raises(SiloError, match="asked 3 times") as caught:
        await run(session(lane), work())
    assert caught.value.silo == "ewr"


async def test_results_that_were_lost_on_their_way_are_asked_for_again():
    lane = ScriptedLane(ewr=[done("ewr", "a")] * 3, jfk=[done("jfk", "b")])
    lane.stored = {"b": b"2"}
    lane.comes_with = {2: ("a", b"1")}
    assert await run(session(lane), work()) == {"ewr": [b"1"], "jfk": [b"2"]}
    assert lane.inline["ewr"] == [{"small"}, set()]


async def test_results_that_are_always_lost_end_it():
    lane = ScriptedLane(ewr=[done("ewr", "a")] * 9, jfk=[None])
    with pytest.raises(SiloError, match="lost on the way"):
        await run(session(lane), work())
    assert len(lane.items["ewr"]) == 3


def held(silo, incarnation, *digests):
    return Done("s", 0, silo, incarnation, tuple((digest, 1) for digest in digests), 0.1, deferred=True)


@pytest.mark.parametrize(
    ("word", "error"),
    [
        (Dead("ewr", "s", 0, "rejected"), "it rejected its work"),
        (Failed("s", 0, "ewr", "2", "lost", "its values are gone"), "values are gone"),
    ],
)
async def test_what_becomes_of_a_silo_while_it_holds_results_is_heard(word, error):
    lane = ScriptedLane(ewr=[held("ewr", "1", "a"), word], jfk=[None])
    lane.get = never
    async with asyncio.timeout(2):
        with pytest.raises(SiloError, match=error):
            await run(session(lane), work())


async def never(*_):
    await asyncio.Event().wait()


async def test_a_silo_that_announces_its_results_again_and_again_fails_by_name():
    lane = ScriptedLane(ewr=[held("ewr", str(at), "a") for at in range(9)], jfk=[None])
    lane.get = never
    async with asyncio.timeout(2):
        with pytest.raises(SiloError, match="announced its results 3 times"):
            await run(session(lane), work())
    assert lane.fetched == ["ewr"] * 3


async def test_a_silo_may_not_ask_for_what_is_none_of_its_business():
    lane = ScriptedLane(ewr=[need("ewr", "secret")], jfk=[None])
    with pytest.raises(SiloError, match="never to have"):
        await run(session(lane), work())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Failed("s", 0, "ewr", "1", "data", "no such table"), SiloError),
        (Dead("ewr", "s", 0, "unroutable"), SiloError),
        (BrokerLost("gone"), BrokerLost),
    ],
)
async def test_whatever_ends_a_silo_ends_the_stage_at_once(answer, error):
    lane = ScriptedLane(ewr=[answer], jfk=[None])
    async with asyncio.timeout(2):
        with pytest.raises(error):
            await run(session(lane), work())


@pytest.mark.parametrize("answer", [Dead("ewr", "s", 0, "expired"), DeadlineExceeded("no answer", silos=["ewr"])])
async def test_who_is_out_of_time_ends_the_stage_when_its_time_is_up(answer):
    lane = ScriptedLane(ewr=[answer], jfk=[None])
    with pytest.raises(StragglerTimeout) as caught:
        await run(session(lane, stage_timeout=0.1), work())
    assert caught.value.silos == ("ewr", "jfk")


async def test_a_session_that_fails_tells_every_member_once():
    lane = ScriptedLane(ewr=[Dead("ewr", "s", 0, "expired")], jfk=[None])
    one = session(lane, stage_timeout=0.1)
    with pytest.raises(DeadlineExceeded) as caught:
        await run(one, work())
    await one.close(caught.value)
    assert sorted(lane.ended) == [("ewr", "s", "1"), ("jfk", "s", "1")]
    assert "FB6002" in one.recorder.report.error


async def test_a_dropped_silo_is_told_and_never_asked_again_and_reported():
    lane = ScriptedLane(ewr=[Failed("s", 0, "ewr", "1", "lost", "it died")], jfk=[done("jfk", "a")] * 2)
    lane.stored = {"a": b"1"}
    one = session(lane, policy=Policy("drop", 1))
    assert await run(one, work()) == {"jfk": [b"1"]}
    assert await run(one, work()) == {"jfk": [b"1"]}
    await one.close()
    assert lane.ended == [("ewr", "s", "1")]
    assert len(lane.items["ewr"]) == 1
    report = one.recorder.report
    assert [stage.participants for stage in report.stages] == [("jfk",), ("jfk",)]
    assert report.dropped == {"ewr": "crashed"}
    assert report.stages[0].silos[0].why == "it died"


async def test_the_quorum_is_of_the_membership_at_the_start():
    lane = ScriptedLane(ewr=[Failed("s", 0, "ewr", "1", "lost", "it died")], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    with pytest.raises(SiloError, match="it died"):
        await run(session(lane, policy=Policy("drop", 0.6)), work())


async def test_grace_closes_a_stage_without_who_is_slow():
    lane = ScriptedLane(ewr=[None], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    one = session(lane, policy=Policy("drop", 1, grace=0.05))
    async with asyncio.timeout(2):
        assert await run(one, work()) == {"jfk": [b"1"]}
    await one.close()
    assert one.recorder.report.dropped == {"ewr": "late"}
    assert lane.ended == [("ewr", "s", "1")]


async def test_a_late_joiner_takes_over_what_the_broker_gave_back():
    bos = Member("bos", "9")
    lane = ScriptedLane(ewr=[Dead("ewr", "s", 0, "expired")], jfk=[done("jfk", "a")], bos=[done("bos", "b")])
    lane.stored = {"a": b"1", "b": b"2"}
    came = asyncio.Event()

    async def late_joiner(fits):
        came.set()
        return next(member for member in (*MEMBERS, bos) if fits(member))

    one = session(lane, policy=Policy("replace", 2), late_joiner=late_joiner)
    replies = await run(one, work(enlist=lambda member, straggler: LateJoiner(PROGRAM, 1)))
    assert replies == {"bos": [b"2"], "jfk": [b"1"]}
    assert one.participants == ("bos", "jfk")
    assert lane.items["bos"][0].clients == 1
    reports = {silo.silo: silo for silo in one.recorder.report.stages[0].silos}
    assert reports["bos"].in_place_of == "ewr"
    assert reports["ewr"].outcome == "expired"


async def test_events_tell_the_same_story():
    events = []
    lane = ScriptedLane(ewr=[done("ewr", "a")], jfk=[Dead("jfk", "s", 0, "expired")])
    lane.stored = {"a": b"1"}
    one = session(lane, policy=Policy("drop", 1))
    one.recorder.listener = events.append
    await run(one, work())
    one.recorder.late("jfk", 0)
    await one.close()
    told = [(event.name, event.silo) for event in events]
    assert told[0] == ("stage_started", "")
    assert set(told[1:3]) == {("silo_answered", "ewr"), ("silo_dropped", "jfk")}
    assert told[3:] == [("stage_finished", ""), ("late_reply", "jfk"), ("session_finished", "")]
    assert one.recorder.report.late == 1
