"""The board's state machine: what it says about sessions, silos and curves, under any events, in bounded memory."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.board import curves, sessions, silos, state
from fedbroker.board.state import BoardState
from fedbroker.board.views import Changes, State
from fedbroker.session.events import EventName
from fedbroker.wire.events import CohortEvent
from fedbroker.wire.messages import Announce, Leave, Source

T0 = 1_000_000.0
SILOS = ["ewr", "jfk", "lga"]


class Scene:
    """A board with its clock, one coordinator and its silos; the coordinator's clock is an hour ahead."""

    def __init__(self) -> None:
        self.board = BoardState()
        self.now = T0
        self.sequence = 0

    def announce(self, *names: str, in_flight: int = 0, heartbeat: float = 5.0, incarnation: str = "i1") -> None:
        for name in names:
            sources = {"flights": Source((), 10)}
            message = Announce("airports", name, incarnation, heartbeat, sources, "1.0", in_flight=in_flight)
            self.board.on_silo(message, self.now)

    def event(self, name: str, silo: str = "", stage: int | None = None, session: str = "s1", **details: Any) -> None:
        event = CohortEvent(
            cohort="airports",
            coordinator="c1",
            sequence=self.sequence,
            time=self.now + 3600,
            name=name,
            session=session,
            stage=stage,
            silo=silo,
            details=details,
        )
        self.sequence += 1
        self.board.on_events([event], self.now)

    def start(self, *members: str, needed: int | None = None, **details: Any) -> None:
        names = list(members or SILOS)
        self.event("session_started", members=names, computation="next_fn", **details)
        needed = len(names) if needed is None else needed
        self.event("stage_started", stage=0, silos=len(names), seconds=60.0, needed=needed, masked=False)

    def answer(self, silo: str, seconds: float = 1.0) -> None:
        times = {"queue": 0.1, "transfer": 0.2, "compute": seconds - 0.3}
        self.event("silo_answered", silo, 0, seconds=seconds, bytes_in=10, bytes_out=20, **times)

    def after(self, seconds: float) -> Scene:
        self.now += seconds
        self.board.tick(self.now)
        return self

    @property
    def state(self) -> State:
        return self.board.snapshot(self.now)

    @property
    def waits(self) -> str:
        return self.board.snapshot(self.now).sessions[0].waits

    def silo(self, name: str) -> str:
        return next(silo.state for silo in self.state.silos if silo.name == name)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.announce(*SILOS)
    return scene


def test_a_session_is_a_time_line_of_each_silo(scene: Scene) -> None:
    scene.start(run="r1", program="digits", round=3)
    scene.after(2.0)
    scene.answer("jfk", 2.0)
    session = scene.state.sessions[0]
    assert (session.program, session.run, session.round, session.computation) == ("digits", "r1", 3, "next_fn")
    assert (session.began, session.ended, session.outcome, session.members, session.stage) == (
        T0,
        None,
        "running",
        3,
        0,
    )
    bars = {bar.silo: bar for bar in scene.state.bars}
    assert bars.keys() == set(SILOS)
    assert (bars["jfk"].outcome, bars["jfk"].total, bars["jfk"].bytes_in) == ("answered", 2.0, 10)
    assert bars["jfk"].queue + bars["jfk"].transfer + bars["jfk"].compute == pytest.approx(2.0)
    assert bars["ewr"].outcome == "waiting"
    assert [(one.answered, one.silos, one.needed) for one in scene.state.stages] == [(1, 3, 3)]
    assert {silo.name: silo.working for silo in scene.state.silos} == {"ewr": True, "jfk": False, "lga": True}
    scene.after(1.0)
    scene.event("silo_dropped", "lga", 0, outcome="crashed", why="its agent died", seconds=3.0)
    scene.answer("ewr", 3.0)
    scene.event("stage_finished", stage=0, participants=2, seconds=3.0)
    scene.after(0.5)
    scene.event("session_finished", outcome="ok", seconds=3.5, code="", error="")
    session = scene.state.sessions[0]
    assert (session.ended, session.outcome, session.dropped, session.waits) == (T0 + 3.5, "ok", 1, "")
    assert scene.state.stages[0].ended == 3.0
    assert [(notice.kind, notice.silo, notice.text) for notice in scene.state.notices] == [
        ("dropped", "lga", "crashed: its agent died")
    ]
    assert not any(silo.working for silo in scene.state.silos)


def test_a_sentence_says_whom_it_waits_for_and_what_they_do(scene: Scene) -> None:
    scene.start()
    assert scene.waits == "waiting for ewr (asked 0 s ago), jfk (asked 0 s ago) and lga (asked 0 s ago)"
    scene.after(2.0)
    scene.announce("jfk", in_flight=1)
    scene.announce("lga")
    scene.answer("ewr")
    scene.after(1.0)
    assert scene.waits == "waiting for lga (not picked up its work for 3 s) and jfk (computing for 3 s)"
    scene.answer("lga")
    scene.after(4.0)
    scene.announce("jfk", in_flight=1)
    scene.after(5.0)
    assert scene.waits == "waiting for jfk (computing for 12 s)"
    scene.answer("jfk")
    scene.after(1.0)
    assert scene.waits == "the coordinator is merging the replies"
    scene.event("stage_finished", stage=0, participants=3, seconds=9.0)
    scene.after(1.0)
    assert scene.waits == "the coordinator is computing"


def test_a_silent_silo_is_named_within_two_heartbeats(scene: Scene) -> None:
    scene.start()
    scene.announce("ewr", "jfk", in_flight=1)
    for _ in range(39):
        scene.after(0.2)
        scene.announce("ewr", "jfk", in_flight=1)
    assert (scene.silo("lga"), scene.silo("ewr")) == ("late", "present")
    assert scene.waits.startswith("waiting for lga (late: last heard of 8 s ago), ewr (computing for 8 s)")
    for _ in range(20):
        scene.after(0.2)
        scene.announce("ewr", "jfk", in_flight=1)
    assert scene.silo("lga") == "gone"
    assert "lga (gone: last heard of 11 s ago)" in scene.waits
    scene.announce("lga", incarnation="i2")
    assert scene.silo("lga") == "present"
    assert next(silo.since for silo in scene.state.silos if silo.name == "lga") == scene.now


def test_a_silo_that_left_is_gone_at_once_and_forgotten_later(scene: Scene) -> None:
    scene.board.on_silo(Leave("airports", "lga", "another"), scene.now)
    assert scene.silo("lga") == "present"
    scene.board.on_silo(Leave("airports", "lga", "i1"), scene.now)
    assert scene.silo("lga") == "gone"
    assert scene.state.cohorts[0].present == 2
    scene.start()
    scene.after(1.0)
    assert "lga (it has left the cohort)" in scene.waits
    scene.event("session_finished", outcome="failed", error="lost")
    scene.board.changes(scene.now)
    scene.after(silos.FORGET_SECONDS + 1)
    assert [silo.name for silo in scene.state.silos] == ["ewr", "jfk"]  # gone only now
    assert ("airports", "lga") in scene.board.changes(scene.now).removed.silos  # type: ignore[union-attr]


def test_many_silos_make_a_short_sentence() -> None:
    scene = Scene()
    names = [f"s{number:04}" for number in range(1000)]
    scene.announce(*names)
    scene.start(*names)
    scene.after(1.0)
    assert scene.waits.endswith("s0002 (asked 1 s ago) and 997 more")
    assert len(scene.waits) < 200


def test_a_quorum_waits_for_any_of_the_others(scene: Scene) -> None:
    scene.start(needed=2)
    scene.answer("ewr")
    scene.after(1.0)
    assert scene.waits == "waiting for 1 more reply of jfk (asked 1 s ago) or lga (asked 1 s ago)"
    scene.answer("jfk")
    scene.after(1.0)
    assert scene.waits == "enough silos have answered; for a moment more it waits for lga (asked 2 s ago)"


def test_an_invocation_that_waits_for_silos_is_shown_until_it_has_a_session(scene: Scene) -> None:
    scene.event("waiting_for_silos", session="", present=["ewr", "jfk"], wanted=3, seconds=30.0)
    waiting = scene.state.sessions[0]
    assert waiting.waits == "waiting for 1 more silo: ewr and jfk are present, 3 are needed"
    assert scene.board.changes(scene.now).sessions == [waiting]  # type: ignore[union-attr]
    scene.event("waiting_for_silos", session="", present=[], wanted=1, seconds=29.0)
    assert scene.waits == "waiting for 1 more silo: none is present, 1 is needed"
    scene.start()
    assert [session.id for session in scene.state.sessions] == ["s1"]
    assert scene.board.changes(scene.now).removed.sessions == [waiting.id]  # type: ignore[union-attr]
    scene.event("waiting_for_silos", session="", present=[], wanted=3, seconds=30.0)
    scene.after(36.0)
    assert [session.id for session in scene.state.sessions] == ["s1"]


def test_a_late_joiner_gets_a_bar_of_its_own(scene: Scene) -> None:
    scene.start("ewr", "jfk")
    scene.after(5.0)
    scene.event("silo_dropped", "jfk", 0, outcome="expired", why="too late", seconds=5.0)
    scene.event("late_joiner_added", "lga", 0, in_place_of="jfk")
    scene.after(2.0)
    scene.answer("lga", 7.0)
    bars = {bar.silo: bar for bar in scene.state.bars}
    assert (bars["lga"].began, bars["lga"].total) == (5.0, 2.0)
    assert bars["jfk"].outcome == "expired"


def test_a_session_whose_start_was_missed_is_shown_from_now_on(scene: Scene) -> None:
    scene.event("silo_answered", "ewr", 2, seconds=1.5, compute=1.0)
    session = scene.state.sessions[0]
    assert (session.outcome, session.stage, session.computation) == ("running", 2, "")
    assert [bar.total for bar in scene.state.bars] == [1.5]


def test_a_session_ends_when_its_coordinator_is_silent_for_long(scene: Scene) -> None:
    scene.start()
    scene.after(60 + sessions.SILENT_SECONDS - 1)
    assert scene.state.sessions[0].outcome == "running"
    scene.after(2.0)
    session = scene.state.sessions[0]
    assert (session.outcome, session.error) == ("failed", "its coordinator has not been heard of since")
    assert not any(silo.working for silo in scene.state.silos)


def test_curves_grow_by_a_point_in_each_round(scene: Scene) -> None:
    for round_number, loss in ((1, 0.9), (2, 0.5)):
        details = {"run": "r1", "program": "digits", "round": round_number, "metrics": {"loss": loss, "bad": None}}
        scene.event("round_finished", session="", **details)
        changes = scene.board.changes(scene.now)
        assert changes is not None
        assert [(curve.metric, curve.points) for curve in changes.curves] == [("loss", [(round_number, loss)])]
    (curve,) = scene.state.curves
    assert (curve.program, curve.cohort, curve.points) == ("digits", "airports", [(1, 0.9), (2, 0.5)])


def test_forged_rejected_and_dead_letters_are_noticed(scene: Scene) -> None:
    scene.start()
    scene.event("message_forged", "jfk", why="signed by another key")
    scene.event("silo_rejected", "ord", session="", reason="version 0.0")
    scene.board.on_dead_letters({"airports": 2}, scene.now)
    scene.board.on_dead_letters({"airports": 5, "unknown": 1}, scene.now)
    assert [(notice.kind, notice.text) for notice in scene.state.notices] == [
        ("forged", "signed by another key"),
        ("rejected", "version 0.0"),
        ("dead letter", "3 new, 5 in all"),
    ]
    assert scene.state.sessions[0].forged == 1
    assert scene.state.cohorts[0].dead_letters == 5


def test_lost_events_are_counted(scene: Scene) -> None:
    scene.event("session_started")
    scene.sequence += 3
    scene.event("stage_started", stage=0, silos=0, seconds=1.0)
    scene.sequence = 0  # the coordinator was started again
    scene.event("session_started")
    assert scene.state.missed == 3


def test_silence_of_the_broker_is_no_silence_of_silos(scene: Scene) -> None:
    scene.board.on_broker("no connection", scene.now)
    scene.after(100.0)
    assert scene.silo("ewr") == "present"
    assert scene.board.changes(scene.now).broker == "no connection"  # type: ignore[union-attr]
    scene.board.on_broker("", scene.now)
    scene.after(4.0)
    assert scene.silo("ewr") == "present"
    assert scene.board.changes(scene.now).broker == ""  # type: ignore[union-attr]
    scene.after(20.0)
    assert scene.silo("ewr") == "gone"


def test_another_coordinator_cannot_change_a_session_or_a_curve(scene: Scene) -> None:
    scene.start()
    scene.event("round_finished", session="", run="r1", round=1, metrics={"loss": 1.0})
    before = scene.state
    for name, details in (
        ("session_finished", {"outcome": "failed", "error": "a lie"}),
        ("silo_answered", {"seconds": 1.0}),
        ("round_finished", {"run": "r1", "round": 2, "metrics": {"loss": 0.0}}),
    ):
        event = CohortEvent(
            cohort="airports",
            coordinator="c2",
            sequence=0,
            time=1.0,
            name=name,
            session="s1",
            silo="ewr",
            details=details,
        )
        scene.board.on_events([event], scene.now)
    after = scene.state
    assert (after.sessions, after.bars, after.curves) == (before.sessions, before.bars, before.curves)


def test_heartbeats_alone_are_sent_once_a_second(scene: Scene) -> None:
    scene.board.changes(scene.now)
    sent = 0
    for _ in range(50):
        scene.now += 0.1
        scene.announce(*SILOS)
        sent += scene.board.changes(scene.now) is not None
    assert 4 <= sent <= 6


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (state, "MAX_SESSIONS", 10),
        (state, "MAX_TOTAL_BARS", 40),
        (state, "MAX_SHOWN_BARS", 12),
        (state, "MAX_NOTICES", 5),
        (state, "MAX_COHORTS", 2),
        (sessions, "MAX_BARS", 9),
        (silos, "MAX_SILOS", 4),
        (curves, "MAX_RUNS", 2),
        (curves, "MAX_METRICS", 3),
        (curves, "MAX_POINTS", 4),
    ):
        monkeypatch.setattr(module, name, value)
    scene = Scene()
    for at in range(30):
        scene.announce(f"silo{at}")
        scene.event("session_started", session=f"s{at}", members=SILOS)
        for stage in range(5):
            scene.event("stage_started", stage=stage, session=f"s{at}", silos=3, seconds=9.0, needed=3)
        scene.event("silo_dropped", "ewr", 4, session=f"s{at}", outcome="late", why="")
        if at % 7:
            scene.event("session_finished", session=f"s{at}", outcome="ok")
        for round_number in range(10):
            metrics = {f"m{number}": 1.0 for number in range(5)}
            scene.event("round_finished", session="", run=f"r{at}", round=round_number, metrics=metrics)
        scene.board.on_silo(Announce(f"c{at}", "ewr", "i", 5.0), scene.now)
    seen = scene.state
    assert len(seen.sessions) <= 10
    assert len(seen.bars) <= 12
    assert len(seen.notices) == 5
    assert len(seen.cohorts) == 2
    assert len(seen.silos) == 4
    assert len({curve.run for curve in seen.curves}) == 2
    assert all(len(curve.points) == 4 for curve in seen.curves)
    assert len(seen.curves) == 6
    newest = scene.board.details("s29", scene.now)
    assert newest is not None
    assert len(newest.bars) == 9


EVENTS = st.builds(
    CohortEvent,
    cohort=st.sampled_from(["a", "b"]),
    coordinator=st.sampled_from(["c1", "c2"]),
    sequence=st.integers(0, 50),
    time=st.floats(0, 100),
    name=st.sampled_from([*get_args(EventName), "unknown_event"]),
    session=st.sampled_from(["", "s1", "s2", "s3"]),
    stage=st.none() | st.integers(0, 3),
    silo=st.sampled_from(["", "ewr", "jfk"]),
    details=st.fixed_dictionaries(
        {},
        optional={
            "members": st.lists(st.sampled_from([*SILOS, 7]), max_size=3) | st.none() | st.just("ewr"),
            "present": st.lists(st.sampled_from(SILOS), max_size=3) | st.integers(),
            "seconds": st.floats(-1, 10) | st.text(max_size=3) | st.none(),
            "needed": st.integers(-1, 4) | st.text(max_size=3),
            "wanted": st.integers(-1, 4),
            "outcome": st.sampled_from(["ok", "failed", "cancelled", "late", "<b>", 3]),
            "run": st.sampled_from(["r1", "r2", 5]),
            "round": st.integers(0, 3) | st.text(max_size=2),
            "metrics": st.dictionaries(st.text(max_size=3), st.floats(-1, 1) | st.none() | st.text(max_size=2)),
        },
    ),
)
MESSAGES = st.builds(
    Announce,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["ewr", "jfk"]),
    st.sampled_from(["i1", "i2"]),
    st.floats(0.1, 9),
) | st.builds(Leave, st.sampled_from(["a", "b"]), st.sampled_from(["ewr", "jfk"]), st.sampled_from(["i1", "i2"]))
STEPS = st.lists(st.tuples(st.floats(0, 200), EVENTS | MESSAGES | st.none(), st.booleans()), max_size=30)


@settings(max_examples=150)
@given(STEPS)
def test_a_client_that_applies_changes_has_the_same_state_as_a_new_one(
    steps: list[tuple[float, CohortEvent | Announce | Leave | None, bool]],
) -> None:
    board, now = BoardState(), T0
    client = Client(board.snapshot(now))
    for seconds, step, take in steps:
        now += seconds
        board.tick(now)
        if isinstance(step, CohortEvent):
            board.on_events([step], now)
        elif step is not None:
            board.on_silo(step, now)
        if take:
            client.apply(board.changes(now))
    client.apply(board.changes(now + 1.0))
    for cohort in board.snapshot(now).cohorts:
        silos = [silo for silo in board.snapshot(now).silos if silo.cohort == cohort.name]
        assert cohort.silos == len(silos)
        assert cohort.present == sum(silo.state != "gone" for silo in silos)
    assert client.content() == Client(board.snapshot(now + 1.0)).content()


class Client:
    """A page's content after a state and some changes."""

    def __init__(self, seen: State) -> None:
        self.cohorts = {one.name: one for one in seen.cohorts}
        self.silos = {(one.cohort, one.name): one for one in seen.silos}
        self.sessions = {one.id: one for one in seen.sessions}
        self.stages = {(one.session, one.stage): one for one in seen.stages}
        self.bars = {(one.session, one.stage, one.silo): one for one in seen.bars}
        self.curves = {(one.run, one.metric): list(one.points) for one in seen.curves}
        self.notices = list(seen.notices)

    def apply(self, changes: Changes | None) -> None:
        if changes is None:
            return
        changes = msgspec.json.decode(msgspec.json.encode(changes), type=Changes)
        if changes.removed is not None:
            for session in (*changes.removed.sessions, *changes.removed.bars):
                self.stages = {key: one for key, one in self.stages.items() if key[0] != session}
                self.bars = {key: one for key, one in self.bars.items() if key[0] != session}
            for session in changes.removed.sessions:
                self.sessions.pop(session, None)
            for silo in changes.removed.silos:
                self.silos.pop(silo, None)
            for curve in changes.removed.curves:
                self.curves.pop(curve, None)
        self.cohorts.update({one.name: one for one in changes.cohorts})
        self.silos.update({(one.cohort, one.name): one for one in changes.silos})
        self.sessions.update({one.id: one for one in changes.sessions})
        self.stages.update({(one.session, one.stage): one for one in changes.stages})
        self.bars.update({(one.session, one.stage, one.silo): one for one in changes.bars})
        for one in changes.curves:
            self.curves.setdefault((one.run, one.metric), []).extend(one.points)
        self.notices += changes.notices

    def content(self) -> tuple[object, ...]:
        # A sentence is renewed twice a second, so a new client may see a newer one.
        sessions = {key: msgspec.structs.replace(one, waits=bool(one.waits)) for key, one in self.sessions.items()}
        return self.cohorts, self.silos, sessions, self.stages, self.bars, self.curves, self.notices
