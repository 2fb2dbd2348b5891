"""Public objects in notebooks and REPLs: one line of at most 200 characters, and a report as a small table."""

from __future__ import annotations

import pytest

import fedbroker
from fedbroker.plan import make_plan
from fedbroker.session.report import SessionReport, SiloReport, StageReport
from fedbroker.text import LONGEST_REPR
from tests.support import computations as c

LONG = "x" * 500


def report(silos: int = 2, **more) -> SessionReport:
    answered = [
        SiloReport(silo=f"silo-{n}", incarnation="1", outcome="answered", at=1.25, bytes_out=4096, bytes_in=80)
        for n in range(silos)
    ]
    late = SiloReport(silo="lga", incarnation="1", outcome="timed out", why=LONG, at=1234.0)
    stages = (StageReport(stage=0, needed=2, seconds=1234.0, silos=(*answered, late)),)
    members = (*(one.silo for one in answered), "lga")
    return SessionReport(session="5e55", cohort="airports", members=members, stages=stages, seconds=1235.0, **more)


def objects():
    plan = make_plan(c.two_barriers)
    explanation = fedbroker.explain(c.two_barriers)
    yield plan
    yield from plan.stages
    yield from plan.parameters
    yield explanation
    yield from explanation.crossings
    for one in (report(), report(1000, error=LONG + "\n", late=3)):
        yield one
        yield from one.stages
        yield from one.stages[0].silos[:3]
    for kind in ("sync", "async"):
        yield getattr(fedbroker, f"create_{kind}_execution_context")(
            "amqp://me:secret@x/", cohort="airports", min_silos=3
        )
    yield fedbroker.create_sync_execution_context("amqp://me:secret@x/", cohort="a" * 60, min_silos=3)


@pytest.mark.parametrize("one", objects(), ids=lambda one: type(one).__name__)
def test_repr_is_one_short_line_with_its_class(one):
    assert "\n" not in repr(one)
    assert len(repr(one)) <= LONGEST_REPR
    assert repr(one).startswith(f"{type(one).__name__}(")
    assert repr(one).endswith(")")
    assert "secret" not in repr(one)


def test_repr_of_a_context_shows_whether_it_is_closed():
    context = fedbroker.create_sync_execution_context("amqp://x/", cohort="airports", min_silos=3)
    assert repr(context) == "SyncBrokerContext(cohort='airports', min_silos=3)"
    context.close()
    assert repr(context) == "SyncBrokerContext(cohort='airports', min_silos=3, closed)"


def test_repr_of_a_plan_has_its_name_and_round_trips():
    assert repr(make_plan(c.two_barriers)).startswith("Plan('two_barriers', 2 round trips, (<")


def test_report_is_a_small_table():
    assert str(report(late=1)).splitlines() == [
        "session 5e55 in cohort airports: 3 silos, 1 client stage, 1,235 s",
        "stage  silo    outcome      after  queue  transfer  compute    out    in",
        "    0  silo-0  answered    1.25 s    0 s       0 s      0 s  4 KiB  80 B",
        "    0  silo-1  answered    1.25 s    0 s       0 s      0 s  4 KiB  80 B",
        "    0  lga     timed out  1,234 s    0 s       0 s      0 s    0 B   0 B",
        "late replies: 1",
    ]


def test_table_of_a_thousand_silos_is_small():
    lines = str(report(1000, error="no quorum")).splitlines()
    assert len(lines) < 30
    assert "and 981 more" in lines
    assert lines[-1] == "error: no quorum"
