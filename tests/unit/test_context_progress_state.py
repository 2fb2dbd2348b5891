"""Progress of an invocation built from events, its rendering, and a display that cannot write."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial

import pytest

from fedbroker.context.progress.display import Display
from fedbroker.context.progress.renderers import LineRenderer, LiveRenderer
from fedbroker.context.progress.state import Invocation, names_text, time_text
from fedbroker.session.events import Event
from fedbroker.session.report import SessionReport, SiloReport, StageReport
from fedbroker.text import bytes_text
from tests.support.pages import blocks

NAMES = ("bos", "ewr", "jfk")


def invocation(began=0.0, **options):
    return Invocation("mean", "airports", 2, began, **options)


def events(*names_and_silos):
    return [Event(name, "s1", 0, silo, details) for name, silo, details in names_and_silos]


def test_state_follows_the_events_of_an_invocation():
    one = invocation()
    one.attempt("s1", ["bos", "ewr", "jfk"])
    for event in events(
        ("stage_started", "", {"silos": 3}),
        ("silo_answered", "bos", {"bytes_in": 2048}),
        ("silo_dropped", "ewr", {"outcome": "timed out"}),
        ("late_joiner_added", "lga", {}),
    ):
        one.on_event(event, 1.0)
    assert (one.phase, one.stage, one.awaited, one.bytes_in) == ("clients", 1, ["jfk", "lga"], 2048)
    for event in events(("silo_answered", "jfk", {}), ("silo_answered", "lga", {}), ("stage_finished", "", {})):
        one.on_event(event, 2.0)
    assert (one.phase, one.awaited) == ("server", [])
    assert one.stage_text(3.5) == "stage 1 of 2: 3 of 4 silos, 2.5 s"
    one.attempt("s2", ["bos"])
    assert (one.attempts, one.stage, one.dropped) == (2, 0, {})


def test_summary_has_time_silos_stages_and_bytes():
    silos = (
        SiloReport(silo="bos", incarnation="1", outcome="answered", bytes_out=4096, bytes_in=10),
        SiloReport(silo="ewr", incarnation="1", outcome="timed out", bytes_out=4096),
    )
    stage = StageReport(stage=0, needed=1, seconds=1.0, silos=silos)
    report = SessionReport(session="s1", cohort="airports", members=("bos", "ewr"), stages=(stage,))
    one = invocation(attempts=2)
    assert one.summary(report, "", 61.0) == (
        "done in 1 min 01 s, 1 silo, 1 stage, 8 KiB out, 10 B in, dropped: ewr (timed out), 2 attempts"
    )
    assert invocation().summary(None, "FB3001", 2.0) == "failed in 2.0 s (FB3001)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (names_text("abcdef"), "a, b, c, d and 2 more"),
        (bytes_text(12), "12 B"),
        (bytes_text(3_500_000), "3.3 MiB"),
        (time_text(3725), "1 h 02 min"),
    ],
)
def test_times_and_sizes_are_readable(text, expected):
    assert text == expected


def test_page_shows_the_rendered_lines(capsys):
    def reported(out, into, *dropped_by_stage):
        stages = tuple(
            StageReport(stage=stage, needed=1, seconds=1.0, silos=tuple(ended(name, late, out, into) for name in NAMES))
            for stage, late in enumerate(dropped_by_stage)
        )
        return SessionReport(session="s1", cohort="airports", members=NAMES, stages=stages)

    def ended(name, late, out, into):
        outcome = "timed out" if name == late else "answered"
        return SiloReport(
            silo=name, incarnation="1", outcome=outcome, bytes_out=out, bytes_in=0 if name == late else into
        )

    one = Invocation("train", "airports", 2, 0.0, present=("ewr",), needed=3)
    renderer = LineRenderer()
    renderer.say(f"train: {one.waiting_text()}")
    one.attempt("s1", NAMES)
    for event in events(("stage_started", "", {}), *(("silo_answered", name, {}) for name in NAMES)):
        one.on_event(event, 10.0)
    renderer.stage_over(one, 10.8)
    renderer.say(f"train: {one.summary(reported(210_000, 600, '', 'jfk'), '', 12.4)}")
    done = invocation().summary(reported(8192, 400, ""), "", 3.4)
    assert [f"mean_delay: {done}\n", capsys.readouterr().err] == blocks("docs/observe.md", "text")


def test_long_wait_is_shown_once(capsys):
    renderer = LineRenderer()
    one = invocation(phase="waiting", present=("bos",), needed=3)
    for now in (1.0, 6.0, 7.0):
        renderer.paint([one], [], now)
    assert capsys.readouterr().err == "fedbroker: mean: waiting for silos, 1 of 3 are present: bos\n"


def run_events(rounds: int, outcome: str):
    about = {"run": "r1", "program": "digits"}
    yield Event("run_started", details={**about, "rounds": rounds})
    for number in range(1, rounds + 1):
        metrics = {"client_work/train/loss": 1 / number, "client_work/train/examples": 300.0}
        yield Event("round_finished", details={**about, "rounds": rounds, "round": number, "metrics": metrics})
    yield Event("run_finished", details={**about, "seconds": 1.0, "outcome": outcome})


async def rounds_on(renderer, outcome="ok"):
    """Show a run of three rounds, each with an invocation of two stages, and one invocation outside of it."""
    display = Display(renderer)
    started, *finished, over = run_events(3, outcome)
    for number, event in enumerate([started, *finished, over]):
        if number:
            one = invocation(0.0, run="r1" if number < 4 else "")
            display.begin(one)
            display.change(partial(one.attempt, "s1", ["bos"]))
            for name in ("stage_started", "stage_finished"):
                display.on_event("airports", Event(name, "s1"))
            await display.end(one, lambda _: "mean: over", failed=False)
        display.on_event("airports", event)
    last = invocation(time.monotonic(), run="r1")
    display.begin(last)
    await display.end(last, lambda _: "mean: failed", failed=True)


def lines_in(text):
    """Return the lines that stay on a terminal: those of the live display are erased."""
    kept = []
    for line in text.removesuffix("\n").split("\n"):
        if "\x1b[1A" in line:  # back to the line before
            kept.pop()
        kept.append(re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", line.rpartition("\x1b[2K")[2]))
    return [re.sub(r"\d\.\d s", "0.0 s", line) for line in kept]


async def test_log_has_a_line_for_each_round_of_a_run(capsys):
    await rounds_on(LineRenderer())
    assert lines_in(capsys.readouterr().err) == [
        "fedbroker: digits: round 1 of 3 in 0.0 s, loss 1, examples 300",
        "fedbroker: digits: round 2 of 3 in 0.0 s, loss 0.5, examples 300",
        "fedbroker: digits: round 3 of 3 in 0.0 s, loss 0.3333, examples 300",
        "fedbroker: mean: stage 1 of 2: 0 of 0 silos, 0.0 s",
        "fedbroker: mean: over",
        "fedbroker: digits: 3 rounds in 0.0 s, loss 0.3333, examples 300",
        "fedbroker: mean: failed",
    ]


async def test_terminal_keeps_one_line_of_a_run(capsys):
    await rounds_on(LiveRenderer(force=True), "cancelled")
    assert lines_in(capsys.readouterr().err) == [
        "mean: over",
        "digits: 3 rounds in 0.0 s (cancelled), loss 0.3333, examples 300",
        "mean: failed",
    ]


async def test_terminal_keeps_one_line_of_a_loop(capsys):
    display = Display(LiveRenderer(force=True))
    for _ in range(30):
        one = invocation(0.0)
        display.begin(one)
        await display.end(one, lambda _: "mean: over", failed=False)
    text = capsys.readouterr().err
    assert lines_in(text) == ["mean: over"], repr(text)


class Broken:
    """A renderer whose stream is closed."""

    pause = 0.01

    def __init__(self):
        self.calls = 0

    def paint(self, invocations, runs, now):
        self.calls += 1
        raise OSError("gone")

    def stage_over(self, invocation, now):
        raise OSError("gone")

    def invocation_over(self, invocation, line, failed):
        raise OSError("gone")

    def round_over(self, line):
        raise OSError("gone")

    def run_over(self, line):
        raise OSError("gone")


async def test_display_that_cannot_write_stops_silently():
    renderer = Broken()
    display = Display(renderer)
    for _ in range(3):
        one = invocation()
        display.begin(one)
        display.change(lambda one=one: one.attempt("s1", ["bos"]))
        display.on_event("airports", Event("stage_started", "s1"))
        display.on_event("airports", Event("stage_finished", "s1"))
        await display.end(one, lambda _: "over", failed=False)
    assert renderer.calls <= 1


class Stuck(Broken):
    """A renderer whose stream blocks for a while."""

    def invocation_over(self, invocation, line, failed):
        time.sleep(1.0)

    def paint(self, invocations, runs, now):
        pass


async def test_blocked_display_is_waited_for_once():
    display = Display(Stuck())
    started = asyncio.get_running_loop().time()
    for _ in range(5):
        one = invocation()
        display.begin(one)
        await display.end(one, lambda _: "over", failed=False)
    assert asyncio.get_running_loop().time() - started < 1.0
