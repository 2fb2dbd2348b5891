"""A forked child of a program with a context ends, gets a typed error or has its own context; it never hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import faulthandler, os, sys
import fedbroker
from fedbroker.errors import FedbrokerError
from tests.support import computations as c

url, cohort = sys.argv[1:]


def context():
    return fedbroker.set_sync_execution_context(url, cohort=cohort, min_silos=2, progress=False)


def child(do):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        # A child that hangs ends by this signal, which the parent then reports.
        faulthandler.dump_traceback_later(100, exit=True)
        try:
            do()
        except FedbrokerError as error:
            print(do.__name__, error.code, flush=True)
        sys.exit(7)
    print(do.__name__, "ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def nothing():
    pass


def parents():
    c.total([1.0, 2.0])


def own():
    with context():
        print("own", c.total([1.0, 2.0]), flush=True)


child(own)  # which is the first to import TensorFlow's part of fedbroker
first = context()
first.explain(c.total)
child(nothing)
child(parents)
child(own)
print("computed", c.total([1.0, 2.0, 3.0]), flush=True)
child(nothing)
child(parents)
child(own)
print("computed", c.total([1.0, 2.0, 4.0]), flush=True)
"""


@pytest.mark.timeout(900)
def test_forked_child_ends_with_an_error_or_a_result(silos):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, silos.url, silos.cohort],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "workers")))},
        cwd=ROOT,
    )
    assert done.stdout.splitlines() == [
        "own 3.0",
        "own ended with 7",
        # Before the first invocation, a child may create its own context.
        "nothing ended with 7",
        "parents FB1004",
        "parents ended with 7",
        "own 3.0",
        "own ended with 7",
        "computed 6.0",
        # Afterwards it gets an error.
        "nothing ended with 7",
        "parents FB1004",
        "parents ended with 7",
        "own FB8001",
        "own ended with 7",
        "computed 7.0",
    ], done.stderr[-3000:]
