"""A program that is stopped while it waits or computes: the example ends in one line, and our threads add none."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedbroker.testing import local_cohort
from tests.support.management import environment
from tests.support.transports import eventually, queue_admin
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "compose" / "program.py").read_text()
ENDLESS = {
    "source": "duckdb",
    "query": "select sum(a.i * b.i)::float as dep_delay from range(100000000) a(i), range(100000000) b(i)",
}
CANCELLED = r"fedbroker: mean_delay: failed in [\d.]+ s \(cancelled\)[^\n]*\n"
ENDS = [(signal.SIGINT, 130, CANCELLED), (signal.SIGTERM, -signal.SIGTERM, "")]


class Running:
    """The example's program, or one without its handling of Ctrl-C, as its own process."""

    def __init__(self, directory: Path, url: str, text: str) -> None:
        self.file = directory / "program.py"
        self.file.write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, str(self.file)],
            env=environment(FEDBROKER_URL=url, TF_CPP_MIN_LOG_LEVEL="2"),
            cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def stop(self, number: int) -> tuple[int, str]:
        """Send a signal; return exit code and standard error."""
        self.process.send_signal(number)
        out, error = self.process.communicate(timeout=PROCESS_SECONDS)
        assert out == ""
        return self.process.returncode, error


@pytest.fixture
def start(broker, cohort, tmp_path) -> Iterator:
    """Return a function that starts the example, for one silo of the test's cohort."""
    started: list[Running] = []

    def run(*, handles: bool = True) -> Running:
        text = EXAMPLE.replace('"airports"', repr(cohort)).replace("min_silos=3", "min_silos=1")
        text = text.replace("quorum=2", "quorum=1")
        if not handles:
            text = re.sub(r"    try:\n.*", "    main()\n", text, flags=re.DOTALL)
            assert "except" not in text
        started.append(Running(tmp_path, broker.url, text))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.communicate(timeout=PROCESS_SECONDS)


@pytest.mark.parametrize(("number", "code", "said"), ENDS)
async def test_program_that_waits_for_silos_is_stopped_in_one_line(start, broker, cohort, number, code, said):
    program = start()
    async with queue_admin(broker.url) as at:
        await eventually(lambda: at.has_queue(f"fedbroker.dead.{cohort}"), 240)
    found, error = program.stop(number)
    assert found == code
    assert re.fullmatch(said, error), error


@pytest.fixture
def busy(broker, cohort):
    """Run a silo whose work does not end; return a function that waits for that work."""
    with local_cohort({"ewr": {"delays": ENDLESS}}, cohort=cohort, broker=broker.url) as silos:
        log = silos.silos["ewr"].log
        yield lambda: wait_until(lambda: "work_received" in log.read_text(), 30, "the silo has work")


@pytest.mark.parametrize(("number", "code", "said"), ENDS)
def test_program_that_computes_is_stopped_in_one_line(start, busy, number, code, said):
    program = start()
    busy()
    found, error = program.stop(number)
    assert found == code
    assert re.fullmatch(said, error), error


def test_program_without_a_handler_prints_one_traceback(start, busy):
    """Check that none of our threads adds a line to Python's own traceback."""
    program = start(handles=False)
    busy()
    code, error = program.stop(signal.SIGINT)
    assert code == -signal.SIGINT
    assert error.count("Traceback") == 1
    assert error.endswith("\nKeyboardInterrupt\n")
