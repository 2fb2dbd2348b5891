"""Programs that start in parallel with the services they need: importing TensorFlow alone takes ten seconds."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Program", "start_program"]


class Program:
    """A running Python program.

    Attributes:
        complaints: its standard error, after its end.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.complaints = ""
        self._process = process

    def output(self, seconds: float) -> str:
        """Return its standard output after a successful end; raise AssertionError with its standard error otherwise."""
        out, self.complaints = self._process.communicate(timeout=seconds)
        assert self._process.returncode == 0, self.complaints
        return out


@contextlib.contextmanager
def start_program(file: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Run a program within the block, and end it with the block."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, str(file), *arguments], stdout=pipe, stderr=pipe, text=True, env=env)
    with process:
        try:
            yield Program(process)
        finally:
            process.kill()
