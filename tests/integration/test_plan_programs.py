"""Generated programs give the values of NumPy and of TFF's own context; ``make programs`` runs thousands."""

from __future__ import annotations

import psutil
import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.programs.generate import program_of_seed, programs
from tests.support.programs.law import Law
from tests.support.programs.model import CLIENTS, SERVER, Output, Parameter, Program
from tests.support.programs.running import load
from tests.support.programs.shapes import N
from tests.support.programs.tff_process import TffCrashed, TffFailed, TffProcess

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

SMALL = Program(
    (Parameter("p0", CLIENTS, N, [N(1), N(2)]), Parameter("p1", SERVER, N, N(3))),
    (),
    (Output("p0", "p0"), Output("p1", "p1")),
    silos=2,
    nested=False,
    secure=False,
)


@pytest.fixture(scope="module")
def tff_process():
    process = TffProcess()
    yield process
    process.close()


@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_generated_programs(direct, masked, tff_process, program):
    failure = Law(direct, masked, tff_process).failure(program)
    assert failure is None, failure


def test_seeds_decide_programs():
    sources = [program_of_seed(1, number).source for number in range(20)]
    assert sources == [program_of_seed(1, number).source for number in range(20)]
    assert len(set(sources)) == 20


@pytest.mark.parametrize(("place", "expected"), [(CLIENTS, "p0 is "), (SERVER, "p1 is ")])
def test_wrong_results_are_found(direct, masked, tff_process, place, expected):
    def wrong(comp, *args, **options):
        at_clients, at_server = direct(comp, *args, **options)
        return ([at_clients[0], N(0)], at_server) if place == CLIENTS else (at_clients, N(0))

    failure = Law(wrong, masked, tff_process).smallest_failure(SMALL)
    assert failure.side == "fedbroker"
    assert expected in failure.text
    load(failure.program.source)


def test_programs_of_ended_runtimes_and_errors_of_tff(tff_process):
    """TFF itself would wait for ever for an answer of a runtime that has ended."""
    assert tff_process.run(SMALL.source, secure=False) == ([1, 2], 3)
    for runtime in psutil.Process(tff_process.pid).children():
        runtime.kill()
    with pytest.raises(TffCrashed, match="its runtime has ended"):
        tff_process.run(SMALL.source, secure=False)
    with pytest.raises(TffFailed, match="ZeroDivisionError"):
        tff_process.run("1 / 0", secure=False)
    with pytest.raises(TffCrashed, match="no answer within 1 s"):
        tff_process.run("import threading\nthreading.Event().wait()", secure=False, seconds=1.0)
    assert tff_process.pid is None
