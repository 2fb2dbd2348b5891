"""A session over a scripted transport: the requests to each silo, and the handling of its replies."""

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
    """Returns the next items of a list."""

    def __init__(self, script):
        self.script = script

    async def next_response(self):
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return answer


class ScriptedLane:
    """Answers each silo's work items from a list, and records its calls."""

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
        self.broken = None  # why the broker accepts no messages

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

    async def trouble(self):
        return self.broken

    async def send_blob(self, digest, data, *, silo, deadline, session_id=""):
        self.blobs.append((digest, silo))

    @contextlib.asynccontextmanager
    async def start_request(self, item, inline, deadline, *, unread=None):
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
    """Run a stage; return each participant's outputs in the order of merging."""
    participants = await one.run_stage(asked)
    assert tuple(asked.merges.outputs) == participants
    return asked.merges.outputs


def work(**options):
    programs = {member.name: PROGRAM for member in MEMBERS}
    return StageWork(0, True, programs, {"small": SMALL, "big": BIG}, RecordedOutputs(), **options)


class Model(bytearray):
    """Bytes with a weak reference."""


async def test_models_are_released_without_the_garbage_collector():
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


async def test_outputs_are_in_membership_order_and_nothing_is_sent_twice():
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


async def test_invalid_reply_drops_only_its_silo():
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
    with pytest.raises(SiloError, match=r"'ewr'.*reply is invalid: a value is not of the type float32"):
        await session(lane).run_stage(work(check=check))


async def test_error_says_how_long_a_sequence_was_read():
    async def read(silo, outputs):
        raise TimeoutError

    lane = ScriptedLane(ewr=[done("ewr", "a")], jfk=[None])
    lane.stored = {"a": b"1"}
    with pytest.raises(SiloError, match=r"was not read within 2,2\d\d s"):
        await session(lane, stage_timeout=2500.0).run_stage(work(read=read))


async def test_missing_blobs_are_sent_to_that_silo_alone_while_others_are_in_transit():
    known = BlobCacheIndex()
    known.add(MEMBERS[0], ["small"])
    lane = ScriptedLane(ewr=[need("ewr", "small"), done("ewr", "a")], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    await run(session(lane, known), work())
    assert lane.inline["ewr"] == [set(), {"small"}]
    assert [set(item.incoming) for item in lane.items["ewr"]] == [{"big"}, {"big"}]
    assert lane.blobs == [("big", None)]


async def test_lost_large_blob_is_sent_to_that_silo_alone():
    lane = ScriptedLane(ewr=[need("ewr", "big"), done("ewr", "a")], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    await run(session(lane), work())
    assert sorted(lane.blobs, key=str) == [("big", "ewr"), ("big", None)]


async def test_silo_that_requests_blobs_endlessly_fails_and_is_named():
    lane = ScriptedLane(ewr=[need("ewr", "big")] * 9, jfk=[None])
    with pytest.raises(SiloError, match="asked 3 times") as caught:
        await run(session(lane), work())
    assert caught.value.silo == "ewr"


async def test_lost_results_are_requested_again():
    lane = ScriptedLane(ewr=[done("ewr", "a")] * 3, jfk=[done("jfk", "b")])
    lane.stored = {"b": b"2"}
    lane.comes_with = {2: ("a", b"1")}
    assert await run(session(lane), work()) == {"ewr": [b"1"], "jfk": [b"2"]}
    assert lane.inline["ewr"] == [{"small"}, set()]


async def test_results_lost_repeatedly_end_the_stage():
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
async def test_failure_of_a_silo_with_deferred_results_is_noticed(word, error):
    lane = ScriptedLane(ewr=[held("ewr", "1", "a"), word], jfk=[None])
    lane.get = never
    async with asyncio.timeout(2):
        with pytest.raises(SiloError, match=error):
            await run(session(lane), work())


async def never(*_):
    await asyncio.Event().wait()


async def test_silo_that_announces_results_endlessly_fails_and_is_named():
    lane = ScriptedLane(ewr=[held("ewr", str(at), "a") for at in range(9)], jfk=[None])
    lane.get = never
    async with asyncio.timeout(2):
        with pytest.raises(SiloError, match="announced its results 3 times"):
            await run(session(lane), work())
    assert lane.fetched == ["ewr"] * 3


async def test_silo_may_not_request_other_blobs():
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
async def test_any_failure_of_a_silo_ends_the_stage_immediately(answer, error):
    lane = ScriptedLane(ewr=[answer], jfk=[None])
    async with asyncio.timeout(2):
        with pytest.raises(error):
            await run(session(lane), work())


@pytest.mark.parametrize("answer", [Dead("ewr", "s", 0, "expired"), DeadlineExceeded("no answer", silos=["ewr"])])
async def test_timed_out_silo_ends_the_stage_at_its_deadline(answer):
    lane = ScriptedLane(ewr=[answer], jfk=[None])
    with pytest.raises(StragglerTimeout) as caught:
        await run(session(lane, stage_timeout=0.1), work())
    assert caught.value.silos == ("ewr", "jfk")


async def test_broker_that_accepts_no_messages_is_the_cause_of_a_timeout():
    lane = ScriptedLane(ewr=[Dead("ewr", "s", 0, "expired")], jfk=[None])
    lane.broken = BrokerLost("the broker accepts no messages", hint="free memory")
    one = session(lane, stage_timeout=0.1)
    with pytest.raises(StragglerTimeout, match="the cause: the broker accepts no messages; free memory") as caught:
        await run(one, work())
    assert caught.value.silos == ("ewr", "jfk")


async def test_failed_session_notifies_every_member_once():
    lane = ScriptedLane(ewr=[Dead("ewr", "s", 0, "expired")], jfk=[None])
    one = session(lane, stage_timeout=0.1)
    with pytest.raises(DeadlineExceeded) as caught:
        await run(one, work())
    await one.close(caught.value)
    assert sorted(lane.ended) == [("ewr", "s", "1"), ("jfk", "s", "1")]
    assert "FB6002" in one.recorder.report.error


async def test_dropped_silo_is_notified_reported_and_gets_no_more_work():
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


async def test_quorum_counts_the_initial_membership():
    lane = ScriptedLane(ewr=[Failed("s", 0, "ewr", "1", "lost", "it died")], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    with pytest.raises(SiloError, match="it died"):
        await run(session(lane, policy=Policy("drop", 0.6)), work())


async def test_grace_closes_a_stage_without_slow_silos():
    lane = ScriptedLane(ewr=[None], jfk=[done("jfk", "a")])
    lane.stored = {"a": b"1"}
    one = session(lane, policy=Policy("drop", 1, grace=0.05))
    async with asyncio.timeout(2):
        assert await run(one, work()) == {"jfk": [b"1"]}
    await one.close()
    assert one.recorder.report.dropped == {"ewr": "late"}
    assert lane.ended == [("ewr", "s", "1")]


async def test_late_joiner_gets_the_work_that_the_broker_returned():
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


async def test_events_agree_with_the_report():
    events = []
    lane = ScriptedLane(ewr=[done("ewr", "a")], jfk=[Dead("jfk", "s", 0, "expired")])
    lane.stored = {"a": b"1"}
    one = session(lane, policy=Policy("drop", 1))
    one.recorder.listeners = (events.append,)
    await run(one, work())
    one.recorder.late("jfk", 0)
    await one.close()
    told = [(event.name, event.silo) for event in events]
    assert told[0] == ("stage_started", "")
    assert set(told[1:3]) == {("silo_answered", "ewr"), ("silo_dropped", "jfk")}
    assert told[3:] == [("stage_finished", ""), ("late_reply", "jfk"), ("session_finished", "")]
    assert one.recorder.report.late == 1
