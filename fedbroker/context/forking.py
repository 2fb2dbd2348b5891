"""Contexts and ``os.fork``: a forked child gets a typed error or a context that works, and always ends."""

from __future__ import annotations

import atexit
import ctypes
import os
import sys

from fedbroker.errors import RuntimeUnavailable

__all__ = ["check_process", "runtime_starts"]

_runs_in: int | None = None


def runtime_starts() -> None:
    """Remember that this process uses gRPC, which no child that is forked from now on can."""
    global _runs_in
    _runs_in = os.getpid()


def check_process() -> None:
    """Raise RuntimeUnavailable in a child of a process that had used a C++ runtime before the fork."""
    if _runs_in not in (None, os.getpid()):
        raise RuntimeUnavailable(
            "a context had computed in the process from which this one was forked, whose threads are missing here",
            hint="start this process with multiprocessing's spawn method, or fork before the first computation",
        )


def _keep_tensorflow_alive() -> None:
    """Keep TensorFlow's eager context from being destroyed when the process ends.

    In a forked child its destructor waits for threads of pools that are only in the parent: the child would never end.
    That also happens where the child has made the eager context, since TensorFlow shares pools that the parent made. A
    process cannot tell whether it was forked before it imported this module, so this happens in each.
    """
    module = sys.modules.get("tensorflow.python.eager.context")
    handle = getattr(getattr(module, "_context", None), "_context_handle", None)
    if handle is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


atexit.register(_keep_tensorflow_alive)  # a forked child has its parent's exit handlers
