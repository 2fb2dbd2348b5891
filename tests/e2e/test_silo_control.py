"""``fedbroker-silo status``, ``pause`` and ``resume`` with real silos, a real broker and a program that computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

import fedbroker
from fedbroker.deadline import Deadline
from fedbroker.errors import CohortTimeout
from fedbroker.testing import local_cohort
from tests.support.computations import sum_numbers
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SILOS = ("ewr", "jfk", "lga")
NUMBERS = {"source": "duckdb", "query": "select 1::float as x from range(10)"}


@pytest.fixture(scope="module")
def silos(broker):
    """Start three silos."""
    with local_cohort(
        {name: {"numbers": NUMBERS} for name in SILOS}, cohort="control", broker=broker.url, heartbeat=0.5
    ) as cohort:
        yield cohort


@pytest.fixture
def ewr(silos):
    """Return the silo that a test pauses; it works again after the test."""
    process = silos.silos["ewr"]
    yield process
    if process.ended:
        process.start()
        process.wait_ready(Deadline.after(60))
    done(process, "resume")


def command(process, *arguments, **environ):
    """Run ``fedbroker-silo`` for a silo."""
    config = str(process.directory / "silo.toml")
    return subprocess.run(
        [sys.executable, "-m", "fedbroker_worker", *arguments, "--config", config],
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        env=os.environ | environ,
    )


def done(process, *arguments):
    """Run a command that must succeed; return the status that it prints."""
    found = command(process, *arguments, "--json")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def events(process):
    return [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]


def members(context):
    """Compute once; return the silos that took part and the seconds that it took."""
    started = time.monotonic()
    total = sum_numbers(context)
    report = context.last_session
    assert total == 10 * len(report.members)
    return set(report.members), time.monotonic() - started


def test_paused_silo_is_not_waited_for(silos, ewr):
    """Pause a silo while a program runs: the next invocation goes without it, the one after its return with it."""
    settings = {"cohort": silos.cohort, "min_silos": 2, "timeouts": fedbroker.Timeouts(join=20.0, stage=60.0)}
    with fedbroker.create_sync_execution_context(silos.url, **settings) as context:
        wait_until(lambda: members(context)[0] == set(SILOS), 20)
        assert done(ewr, "status")["answered"] >= 1
        status = done(ewr, "pause")
        assert status["state"] == "paused"
        assert status["pause_kept"]
        assert status["note"] == ""
        present, seconds = members(context)
        assert present == {"jfk", "lga"}
        assert seconds < 5.0
        assert done(ewr, "resume")["state"] == "in its cohort"
        wait_until(lambda: members(context)[0] == set(SILOS), 10)
    assert done(ewr, "status")["refused"] == 0
    assert not ewr.ended


def test_coordinator_that_needs_a_paused_silo_names_it(silos, ewr):
    settings = {"cohort": silos.cohort, "min_silos": 3, "timeouts": fedbroker.Timeouts(join=2.0)}
    with fedbroker.create_sync_execution_context(silos.url, **settings) as context:
        assert members(context)[0] == set(SILOS)
        done(ewr, "pause")
        with pytest.raises(CohortTimeout, match=r"gone: ewr"):
            sum_numbers(context)


def test_pause_outlives_the_service(silos, ewr):
    """Kill a paused silo and start it again: it is still paused, and nothing of the killed process is in the way."""
    done(ewr, "pause")
    first = done(ewr, "status")
    ewr.kill()
    gone = command(ewr, "status")
    assert gone.returncode == 4
    assert gone.stderr.startswith("error: [FB4209] no service of this silo is running")
    assert gone.stderr.count("\n") == 1
    ewr.start()
    ewr.wait_ready(Deadline.after(60))
    again = done(ewr, "status")
    assert again["state"] == "paused"
    assert again["pid"] != first["pid"]
    assert again["paused_since"] == first["paused_since"]
    settings = {"cohort": silos.cohort, "min_silos": 2}
    with fedbroker.create_sync_execution_context(silos.url, **settings) as context:
        assert members(context)[0] == {"jfk", "lga"}
    done(ewr, "resume")
    assert ewr.stop() == 0
    left = {entry.name for entry in ewr.directory.iterdir()}
    assert left == {"silo.toml", "silo.log"}
    warned = [event for event in events(ewr) if event["level"] == "warning"]
    assert [(event["event"], event["kept"]) for event in warned] == [("silo_paused", True)]


def test_commands_for_people(ewr):
    found = command(ewr, "status", COLUMNS="200")
    assert found.returncode == 0
    assert "state    in its cohort" in found.stdout
    assert "data     numbers: 10 rows, 1 client" in found.stdout
    assert "\x1b" not in found.stdout
    paused = command(ewr, "pause", COLUMNS="200")
    assert "until `fedbroker-silo resume`" in paused.stdout
    assert command(ewr, "pause").returncode == 0  # a second time changes nothing


def test_settings_that_cannot_be_found(ewr, tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "fedbroker_worker", "status", "--config", str(tmp_path / "none.toml")],
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
    )
    assert found.returncode == 2
    assert "[FB4201]" in found.stderr
