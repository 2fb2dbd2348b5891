"""Views of a made-up federation, for the board's page: what tests and screenshots show."""

from __future__ import annotations

import itertools
import math
import random
import time

import msgspec

from fedbroker.board.views import BarView, CohortView, CurveView, NoticeView, SessionView, SiloView, StageView, State

RUN = "a1b2c3d4e5f60718"
RUNNING = "5e55100000000025"
FAILED = "5e55100000000018"
NAMES = ("charite", "ewr", "jfk", "lga", "st-thomas", "university-hospital-heidelberg")
METRICS = ("train/loss", "train/accuracy", "eval/accuracy", "examples")


def silo(name: str, now: float, **other: object) -> SiloView:
    made = SiloView(
        cohort="airports",
        name=name,
        state="present",
        since=now - 7200,
        seen=now,
        heartbeat=5.0,
        version="0.1.0",
        sources=["delays", "digits"],
        in_flight=0,
        working=False,
    )
    return msgspec.structs.replace(made, **other)


def session(id: str, now: float, **other: object) -> SessionView:
    made = SessionView(
        id=id,
        cohort="airports",
        coordinator="c0ffee12",
        computation="next_fn",
        program="digits",
        run=RUN,
        round=None,
        began=now,
        ended=None,
        outcome="running",
        error="",
        members=len(NAMES),
        stage=0,
        waits="",
        dropped=0,
        forged=0,
    )
    return msgspec.structs.replace(made, **other)


def stage(id: str, number: int, began: float, ended: float | None, silos: int, answered: int) -> StageView:
    return StageView(
        session=id, stage=number, began=began, ended=ended, needed=4, silos=silos, answered=answered, masked=number > 0
    )


def bar(id: str, number: int, name: str, began: float, **other: object) -> BarView:
    """Return a bar that waits, unless the other fields say that it has ended."""
    made = BarView(
        session=id,
        stage=number,
        silo=name,
        began=began,
        queue=0.0,
        transfer=0.0,
        compute=0.0,
        total=0.0,
        outcome="waiting",
        why="",
        bytes_in=0,
        bytes_out=1_200_000,
    )
    return msgspec.structs.replace(made, **other)


def answered(id: str, number: int, name: str, began: float, dice: random.Random) -> BarView:
    queue, transfer, compute = dice.expovariate(7), dice.expovariate(4), dice.gammavariate(4, 0.4)
    return bar(
        id,
        number,
        name,
        began,
        queue=queue,
        transfer=transfer,
        compute=compute,
        total=queue + transfer + compute + 0.02,
        outcome="answered",
        bytes_in=dice.randrange(1_000, 900_000),
    )


def curve(metric: str, rounds: int, dice: random.Random) -> CurveView:
    falls = {"train/loss": 2.3, "examples": 0.0}.get(metric, -0.88)
    level = {"train/loss": 0.06, "examples": 1797.0}.get(metric, 0.965)
    noise = 0.0 if metric == "examples" else 0.012
    points = [(n, level + falls * math.exp(-n / 6) + dice.gauss(0, noise)) for n in range(1, rounds + 1)]
    return CurveView(run=RUN, program="digits", cohort="airports", metric=metric, points=points)


def federation(silos: int = 0) -> State:
    """Return a cohort of six silos in the 25th round of a program; or of more silos, whose session has just begun."""
    now, dice = time.time(), random.Random(3)
    names = [f"silo-{n:04}" for n in range(silos)] if silos else list(NAMES)
    sessions, stages, bars = [], [], []
    for number in range(1, 26):
        id, began = f"5e551{number:011}", now - 9 * (25 - number) - 7
        running, failed = id == RUNNING, id == FAILED
        error = "FB3102: 3 of 4 silos answered stage 0 (timed out: jfk, lga, st-thomas)" if failed else ""
        sessions.append(
            session(
                id,
                began,
                round=number,
                ended=None if running else began + 6.4,
                outcome="running" if running else "failed" if failed else "ok",
                error=error,
                members=len(names),
                stage=int(running),
                waits="waiting for st-thomas (late: last heard of 12 s ago) and lga (computing for 3 s)" * running,
                dropped=3 if failed else int(running),
            )
        )
    for view in sessions[-4:]:
        running = view.id == RUNNING
        away = {"jfk"} if running else set[str]()
        late = {"lga", "st-thomas"} if running else set[str]()
        here = [name for name in names if name not in away]
        replied = len(here) - len(late.intersection(here))
        stages.append(stage(view.id, 0, 0.1, 3.6, len(names), len(here)))
        stages.append(stage(view.id, 1, 3.8, None if running else 6.3, len(here), replied))
        for name in names:
            if name in away:
                lost = {"total": 3.4, "outcome": "timed out", "why": "no reply within 3.4 s"}
                bars.append(bar(view.id, 0, name, 0.1, **lost))
                continue
            bars.append(answered(view.id, 0, name, 0.1, dice))
            bars.append(bar(view.id, 1, name, 3.8) if name in late else answered(view.id, 1, name, 3.8, dice))
    states = {"st-thomas": "late", "jfk": "gone"}
    views = [
        silo(
            name,
            now,
            state=states.get(name, "present"),
            since=now - dice.randrange(90_000),
            seen=now - (12.0 if name in states else 0.4),
            in_flight=int(name == "lga"),
            working=name not in states,
        )
        for name in names
    ]
    notices = [
        ("dropped", "jfk", "timed out: no reply within 3.4 s", RUNNING),
        ("rejected", "old-silo", "it speaks an older protocol: update it to 0.1.0", ""),
        ("forged", "mallory", "its announcement is not signed by the silo's key", ""),
        ("dead letter", "st-thomas", "delivered 3 times without a reply", FAILED),
    ]
    return State(
        cohorts=[
            CohortView(name="airports", silos=len(names), present=len(names) - (not silos), dead_letters=1),
            CohortView(name="hospitals", silos=3, present=3, dead_letters=0),
        ],
        silos=[*views, *(silo(f"clinic-{n}", now, cohort="hospitals") for n in (1, 2, 3))],
        sessions=sessions,
        stages=stages,
        bars=bars,
        curves=[curve(metric, 24, dice) for metric in METRICS],
        notices=[
            NoticeView(time=now - 60 * n - 5, cohort="airports", session=id, silo=name, kind=kind, text=text)
            for n, (kind, name, text, id) in zip(itertools.count(4, -1), reversed(notices), strict=False)
        ],
        broker="",
        missed=0,
        at=now,
    )
