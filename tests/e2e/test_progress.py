"""A program's progress display on a terminal, in a pipe and on a blocked standard error, with a real cohort."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fedbroker.testing import local_cohort
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "progress_program.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'workers'}",
    "TERM": "xterm",
    "COLUMNS": "120",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
TIME = r"\d+\.\d s"


class Terminal:
    """A program whose standard error is a terminal, and its output so far."""

    def __init__(self, process, ours):
        self.process = process
        self._ours = ours
        self._bytes = b""

    def read(self):
        with suppress(BlockingIOError):
            self._bytes += os.read(self._ours, 65536)
        return self._bytes.decode(errors="replace")

    def until(self, *words):
        wait_until(
            lambda: all(word in self.read() for word in words), 30, f"{words} on the terminal: {self.read()[-2000:]}"
        )

    def key(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def settings(self):
        return termios.tcgetattr(self._ours)


@contextmanager
def program(url, cohort):
    """Run the program; yield it and the pipe that is its first standard error."""
    ours, theirs = pty.openpty()
    reader, writer = os.pipe()
    os.set_blocking(ours, False)
    os.set_blocking(reader, False)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), url, cohort, str(writer)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        pass_fds=[writer],
        text=True,
    )
    try:
        yield Terminal(process, ours), reader
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        for descriptor in (ours, theirs, reader, writer):
            os.close(descriptor)


@contextmanager
def stopped(silo):
    os.kill(silo.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(silo.pid, signal.SIGCONT)


def test_display_on_a_terminal_in_a_pipe_and_on_a_full_pipe(broker):
    """Run one program through all displays; it starts in parallel with its silos, since TensorFlow's import is slow."""
    with (
        program(broker.url, "progress") as (shown, pipe),
        local_cohort({"ewr": {}, "jfk": {}}, cohort="progress", broker=broker.url) as silos,
    ):
        before = shown.settings()
        assert [shown.line() for _ in range(6)] == ["0.0"] * 3 + ["2.0"] * 3
        assert float(shown.line()) < 5  # the program waits half a second, once, for the full pipe
        in_a_pipe(pipe)
        shown.key()
        assert shown.line() == "2.0"
        ewr = silos.silos["ewr"]
        with stopped(ewr):
            shown.key()
            shown.until("alone", "1/2 silos", "waiting for ewr")
        assert shown.line() == "2.0"
        shown.until("alone: done in ")
        with stopped(ewr):
            shown.key()
            shown.until("first", "second")
        assert shown.line() == "2.0 2.0"
        shown.until("first: done in ", "second: done in ")
        os.kill(ewr.pid, signal.SIGSTOP)
        shown.key()
        shown.until("broken")
        shown.process.send_signal(signal.SIGINT)
        shown.process.wait(30)
        ewr.kill()  # it would look for the coordinator for a while
        shown.until("broken: failed in ", "KeyboardInterrupt")
        assert shown.settings() == before
        assert "Exception in thread" not in shown.read()
        assert shown.read().rfind("\x1b[?25h") > shown.read().rfind("\x1b[?25l")  # the cursor is visible


def in_a_pipe(pipe):
    """Check the lines in a pipe: one for each stage, none if disabled, control codes if forced."""
    said = ""

    def read():
        nonlocal said
        with suppress(BlockingIOError):
            said += os.read(pipe, 1 << 20).decode()
        return said

    # The first display with a full standard error got stuck there; the others appear in the next one.
    wait_until(lambda: read().count("fedbroker: stuffed: done in ") == 2, 10, "what was late is said")
    said = re.sub("fedbroker: stuffed: .*", "", said)
    lines = [line for line in said.splitlines() if "fedbroker: " in line]
    patterns = [
        rf"fedbroker: lines: stage 1 of 2: 2 of 2 silos, {TIME}",
        rf"fedbroker: lines: done in {TIME}, 2 silos, 2 stages, \d+(\.\d)? K?i?B out, \d+ B in",
        rf"fedbroker: warm: done in {TIME}, 2 silos, 1 stage, \d+(\.\d)? K?i?B out, \d+ B in",
    ]
    assert len(lines) == len(patterns), said
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert "silent" not in said
    assert re.search(rf"forced: done in {TIME}, 2 silos, 2 stages", said)
    assert "Traceback" not in said
