"""Blockbuster for our own packages: a call that blocks an event loop raises ``BlockingError`` where it is made.

Only calls from fedbroker's and the worker's own coroutines and callbacks count. A coroutine of a test may call a
function that blocks: its event loop has nothing else to do.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from blockbuster import BlockBuster

OURS = ("fedbroker", "fedbroker_worker")
TESTS = f"{Path(__file__).parents[1]}/"

ALLOWED: tuple[tuple[str, str], ...] = (
    # A log line goes to standard error at once, so that the last one before a crash is not lost.
    ("logging/__init__.py", "emit"),
    # Starts the runtime's host process, which ends together with the thread that started it: not in a pool's thread.
    ("fedbroker/runtime/process.py", "host_process"),
    # Removes two names from the directory for temporary files; at the interpreter's exit no thread can be started.
    ("fedbroker/runtime/host/supervisor.py", "remove"),
    # The first use of an optional package imports it.
    ("<frozen importlib._bootstrap_external>", "get_data"),
    ("<frozen importlib._bootstrap_external>", "path_stats"),
    # Reads the packaged list of TensorFlow's ops, once in a process.
    ("fedbroker/graphs/graphdef.py", "known_ops"),
    # Looks for the files that a broker's URL names, before anything is connected.
    ("fedbroker/transport/amqp/url.py", "_options"),
    # Read the kernel's own files under /proc and /sys/fs/cgroup, which no disk delays.
    ("fedbroker/runtime/resources.py", "_asleep"),
    ("fedbroker/runtime/resources.py", "processes_below"),
    ("fedbroker/runtime/resources.py", "processor_seconds"),
    ("fedbroker/runtime/resources.py", "memory_bytes"),
)
"""Functions that may block: the end of their file's path, and their name. Each has its reason."""

_LOOP = asyncio.BaseEventLoop._run_once.__code__
_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


@contextmanager
def watching() -> Iterator[None]:
    """Raise where our code blocks an event loop within the block."""
    blockbuster = BlockBuster(OURS)
    for lock in [name for name in blockbuster.functions if name.startswith("threading.Lock")]:
        del blockbuster.functions[lock]  # gRPC and executors hold theirs for a moment
    del blockbuster.functions["os.path.abspath"]  # asks for the working directory, which is no file
    for function in blockbuster.functions.values():
        function.can_block_predicate = _or_called_by_test(function.can_block_predicate)
        for file, name in ALLOWED:
            function.can_block_in(file, name)
    blockbuster.activate()
    try:
        yield
    finally:
        blockbuster.deactivate()


def _or_called_by_test(can_block: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *args, **kwargs: can_block(*args, **kwargs) or _in_test(sys._getframe(1))


def _in_test(frame: FrameType | None) -> bool:
    """Return whether the innermost coroutine that runs is a test's, or no event loop called the function.

    Playwright runs an event loop in the test's thread, with a stack of its own.
    """
    while frame is not None and not frame.f_code.co_flags & _COROUTINE:
        if frame.f_code is _LOOP:
            return False  # a callback of ours
        frame = frame.f_back
    return frame is None or frame.f_code.co_filename.startswith(TESTS)
