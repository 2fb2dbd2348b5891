"""The cohort for programs' own tests: quick to be there, gone with whoever made it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from fedbroker.errors import CohortError
from fedbroker.testing import local_cohort
from tests.support.wait import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PROGRAM = """
import signal
from fedbroker.testing import local_cohort
with local_cohort(3) as cohort:
    print(*(silo.pid for silo in cohort.silos.values()), flush=True)
    signal.pause()
"""


def running(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def descendants(pid):
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(one) for one in file.read().split()]
    return [*found, *(one for child in found for one in descendants(child))]


def test_three_silos_and_a_broker_within_15_seconds():
    start = time.monotonic()
    with local_cohort(3) as cohort:
        seconds = time.monotonic() - start
        assert sorted(cohort.silos) == ["silo-0", "silo-1", "silo-2"]
        assert cohort.url not in repr(cohort)
        pids = [silo.pid for silo in cohort.silos.values()]
        below = [one for pid in pids for one in descendants(pid)]
        assert len(below) >= 3  # each has its C++ runtime
    assert seconds < 15, f"{seconds:.1f} s"
    until(lambda: not any(running(pid) for pid in (*pids, *below)), 15)


def test_nothing_outlives_a_killed_program():
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        line = program.stdout.readline()
        assert len(line.split()) == 3, line
        family = descendants(program.pid)
        assert len(family) > 6  # the broker's processes, three silos, their runtimes
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
        program.stdout.close()
    until(lambda: not any(running(pid) for pid in family), 30)


def test_a_silo_that_cannot_start_says_why(broker, cohort):
    bad = {"numbers": {"source": "duckdb", "query": "select x from 'no-such-file.csv'"}}
    with (
        pytest.raises(CohortError, match=r"silo-0.*no-such-file"),
        local_cohort(1, sources=bad, cohort=cohort, broker=broker.url),
    ):
        pass
