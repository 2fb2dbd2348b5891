"""Tracebacks of failed calls end at the user's line, and a program prints nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import traceback

import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.context.contexts import default_context
from fedbroker.context.loop import LoopThread
from fedbroker.errors import BrokerUnreachable, PlanError, UsageError
from tests.support import computations as c
from tests.support.local_tff import pack_arguments
from tests.support.wait import PROCESS_SECONDS

SETTINGS = {
    "url": "amqp://localhost:1/",
    "cohort": "airports",
    "min_silos": 1,
    "progress": False,
    "timeouts": fedbroker.Timeouts(join=0.1),
    "options": fedbroker.Options(retries=0),
}

PROGRAM = """\
import asyncio, os, sys
import fedbroker
import numpy as np
import tensorflow_federated as tff

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def total(x):
    return tff.federated_sum(x)

async def main():
    await total([1.0])

def train():
    return total([1.0])

settings = dict(cohort="airports", min_silos=1, progress=False)
settings |= dict(timeouts=fedbroker.Timeouts(join=0.1), options=fedbroker.Options(retries=0))
fedbroker.set_async_execution_context("amqp://localhost:1/", **settings)
for debug in "10":
    os.environ["FEDBROKER_DEBUG"] = debug
    try:
        asyncio.run(main())
    except fedbroker.FedbrokerError:
        sys.excepthook(*sys.exc_info())
    print("----", file=sys.stderr)
fedbroker.set_sync_execution_context("amqp://localhost:1/", **settings)
train()
"""
LOST = "[FB2001] total: the broker could not be reached within "
QUIET = {name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "FEDBROKER_DEBUG")}


@pytest.fixture(autouse=True)
def _not_debugging(monkeypatch):
    monkeypatch.delenv("FEDBROKER_DEBUG", raising=False)


@pytest.fixture
def context():
    before = default_context()
    with fedbroker.set_sync_execution_context(**SETTINGS) as context:
        yield context
    tff.framework.get_context_stack().set_default_context(before)


def modules(error: BaseException) -> list[str]:
    """Return the packages of a traceback's frames, outermost first."""
    return [frame.f_globals["__name__"].partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]


def test_program_that_fails_prints_its_own_lines_and_no_others(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file)],
        env={**QUIET, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
    )
    lines = [line for line in done.stderr.splitlines() if "broker_not_connected" not in line]
    debugging, called, failed = (part.splitlines() for part in "\n".join(lines).split("----\n"))
    assert any("fedbroker/context/invocation.py" in line for line in debugging)
    assert [line for line in called if line.startswith("  File")] == [
        f'  File "{file}", line 22, in <module>',
        f'  File "{file}", line 11, in main',
    ]
    assert failed[:-1] == [
        "Traceback (most recent call last):",
        f'  File "{file}", line 27, in <module>',
        "    train()",
        f'  File "{file}", line 14, in train',
        "    return total([1.0])",
        "           ^^^^^^^^^^^^",
    ]
    assert failed[-1].startswith(f"fedbroker.errors.BrokerUnreachable: {LOST}")
    assert done.returncode == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("before", "level"), [({}, "2"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0")])
def test_tensorflow_s_notes_are_off_unless_their_level_is_set(before, level):
    program = "import os, fedbroker; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**QUIET, **before},
        capture_output=True,
        text=True,
        check=True,
        timeout=PROCESS_SECONDS,
    )
    assert (done.stdout, done.stderr) == (f"{level}\n", "")


def test_error_of_a_call_has_no_frames_and_causes_of_ours(context):
    with pytest.raises(BrokerUnreachable) as caught:
        c.total([1.0])
    assert modules(caught.value) == ["tests", "tensorflow_federated"]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    with pytest.raises(PlanError) as caught:
        context.explain(c.total.type_signature)
    assert modules(caught.value) == ["tests"]


async def test_error_of_an_awaited_call_has_no_frames_of_ours():
    async with fedbroker.create_async_execution_context(**SETTINGS) as context:
        with pytest.raises(BrokerUnreachable) as caught:
            await context.invoke(c.total, pack_arguments(c.total, ([1.0],)))
    assert modules(caught.value) == ["tests"]


def test_error_keeps_the_exception_that_its_caller_handles(context):
    mine = KeyError("mine")

    def retries():
        try:
            raise mine
        except KeyError:
            c.total([1.0])

    with pytest.raises(BrokerUnreachable) as caught:
        retries()
    assert caught.value.__context__ is mine


def test_error_after_an_interrupt_is_not_reported_by_asyncio(caplog):
    """Interrupt a caller whose coroutine then fails while it cleans up."""
    thread = LoopThread("interrupted")
    started, failed = threading.Event(), threading.Event()

    async def fails_when_cancelled():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            failed.set()
            raise UsageError("while it cleaned up")

    with caplog.at_level(logging.ERROR, "asyncio"):
        future = thread.submit(fails_when_cancelled())
        assert started.wait(10)
        future.cancel()
        assert failed.wait(10)
        thread.stop()
    assert caplog.text == ""
