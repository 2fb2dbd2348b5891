"""Programs that come up beside what they need: their imports of TensorFlow alone take ten seconds."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Program", "beside"]


class Program:
    """A Python program that runs.

    Attributes:
        complaints: its standard error, once it has ended.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.complaints = ""
        self._process = process

    def output(self, seconds: float) -> str:
        """What it printed, once it has ended well; AssertionError with what it complained of when it did not."""
        out, self.complaints = self._process.communicate(timeout=seconds)
        assert self._process.returncode == 0, self.complaints
        return out


@contextlib.contextmanager
def beside(file: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Run it from now on; at the block's end it is gone."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, str(file), *arguments], stdout=pipe, stderr=pipe, text=True, env=env)
    with process:
        try:
            yield Program(process)
        finally:
            process.kill()
