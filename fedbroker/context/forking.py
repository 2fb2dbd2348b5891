"""Contexts and ``os.fork``: a forked child gets a typed error or a context that works, and always ends."""

from __future__ import annotations

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
    """Keep TensorFlow's eager context from being destroyed when a forked child ends.

    Its destructor waits for the threads of its pools, which are only in the parent: the child would never end.
    """
    module = sys.modules.get("tensorflow.python.eager.context")
    handle = getattr(getattr(module, "_context", None), "_context_handle", None)
    if handle is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


os.register_at_fork(after_in_child=_keep_tensorflow_alive)
