"""TFF's own contexts in a child process, which is replaced when it ends or misses a deadline.

TFF waits for ever when the runtime that it started has ended, and some programs end that runtime.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

import psutil

__all__ = ["TffCrashed", "TffFailed", "TffProcess"]

START_SECONDS = 300.0
"""An import of TensorFlow takes ten seconds, and more on a loaded machine."""

PROGRAM_SECONDS = 60.0

PROGRAMS = 200
"""The child is replaced after as many: it keeps memory for each program."""

WATCH_SECONDS = 0.2


class TffFailed(AssertionError):
    """TFF's own context has raised an error."""


class TffCrashed(AssertionError):
    """TFF's own runtime has ended, or has not answered in time."""


class TffProcess:
    """Runs sources of programs on TFF's own contexts."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None
        self._runs = 0

    @property
    def pid(self) -> int | None:
        """Return the child's process id; None before its start and after its end."""
        return None if self._process is None else self._process.pid

    def send(self, source: str, *, secure: bool) -> None:
        """Start a program; its result is that of the next ``receive``."""
        if self._runs >= PROGRAMS:
            self.close()
        if self._process is None:
            self._start()
        self._runs += 1
        with contextlib.suppress(BrokenPipeError):  # it has ended: the answer is that
            self._pipe.send((source, secure))

    def receive(self, seconds: float = PROGRAM_SECONDS) -> Any:
        """Return the result of the program that was sent, which may take ``seconds``.

        Raises:
            TffFailed: TFF has raised an error.
            TffCrashed: its runtime has ended, or the program took too long.
        """
        kind, value = self._answer(seconds)
        if kind == "failed":
            raise TffFailed(value)
        return value

    def run(self, source: str, *, secure: bool, seconds: float = PROGRAM_SECONDS) -> Any:
        self.send(source, secure=secure)
        return self.receive(seconds)

    def close(self) -> None:
        """End the child and the runtimes that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # it may not have made its group
        self._process.join()
        self._pipe.close()
        self._process = None

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()
        self._runs = 0
        self._answer(START_SECONDS)

    def _answer(self, seconds: float) -> tuple[str, Any]:
        try:
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            reason = f"no answer within {seconds:.0f} s"
        except (EOFError, ConnectionResetError):
            reason = "its runtime has ended"
        self.close()
        raise TffCrashed(reason)


def _serve(pipe: Connection, parent: int) -> None:
    os.setpgrp()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # Imported in the child only: the parent of a test may have no TensorFlow yet.
    from tensorflow_federated.python.core.backends.test import execution_contexts as test_contexts

    from tests.support.local_tff import local_context, pack_arguments
    from tests.support.programs.running import load

    contexts = {False: local_context(), True: test_contexts.create_sync_test_cpp_execution_context()}
    pipe.send(("ready", None))
    while True:
        source, secure = pipe.recv()
        try:
            comp, args = load(source)
            answer = ("result", contexts[secure].invoke(comp, pack_arguments(comp, args)))
        except Exception as error:  # any error is the answer
            answer = ("failed", f"{type(error).__name__}: {str(error)[:500]}")
        pipe.send(answer)


def _watch(parent: int) -> None:
    """End this process group as soon as a runtime or the parent has ended."""
    me, pause = psutil.Process(), threading.Event()
    while os.getppid() == parent:
        pause.wait(WATCH_SECONDS)
        for child in me.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.killpg(0, signal.SIGKILL)
    os.killpg(0, signal.SIGKILL)
