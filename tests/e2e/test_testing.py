"""``fedbroker.testing``'s cohort for users' tests: it starts quickly and ends with its program."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from fedbroker.errors import CohortError
from fedbroker.testing import local_cohort
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROGRAM = """
import signal
from fedbroker.testing import local_cohort
with local_cohort(3) as cohort:
    print(*(silo.pid for silo in cohort.silos.values()), flush=True)
    signal.pause()
"""


def gone(processes):
    return all(ended(one) for one in processes)


def ended(process):
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.alone
def test_three_silos_and_a_broker_start_within_15_seconds():
    start = time.monotonic()
    with local_cohort(3) as cohort:
        seconds = time.monotonic() - start
        assert sorted(cohort.silos) == ["silo-0", "silo-1", "silo-2"]
        assert cohort.url not in repr(cohort)
        silos = [psutil.Process(silo.pid) for silo in cohort.silos.values()]
        below = [one for silo in silos for one in silo.children(recursive=True)]
        assert len(below) >= 3  # each has its C++ runtime
    assert seconds < 15, f"{seconds:.1f} s"
    wait_until(lambda: gone([*silos, *below]), 15)


def test_no_process_outlives_a_killed_program():
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        line = program.stdout.readline()
        assert len(line.split()) == 3, line
        family = psutil.Process(program.pid).children(recursive=True)
        assert len(family) > 6  # the broker's processes, three silos, their runtimes
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
        program.stdout.close()
    wait_until(lambda: gone(family), 30)


def test_failed_start_of_a_silo_raises_its_reason(broker, cohort):
    bad = {"numbers": {"source": "duckdb", "query": "select x from 'no-such-file.csv'"}}
    with (
        pytest.raises(CohortError, match=r"silo-0.*no-such-file"),
        local_cohort(1, sources=bad, cohort=cohort, broker=broker.url),
    ):
        pass


def test_cohort_keeps_its_settings_where_the_environment_has_others(broker, cohort, monkeypatch):
    monkeypatch.setenv("FEDBROKER_SILO_BROKER", "amqp://127.0.0.1:1/")
    monkeypatch.setenv("FEDBROKER_SILO_NAME", "other")
    with local_cohort(1, cohort=cohort, broker=broker.url) as running:
        assert list(running.silos) == ["silo-0"]
