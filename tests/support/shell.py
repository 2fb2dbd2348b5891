"""A shell that runs a page's commands block by block, as its reader would, and returns their output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.wait import wait_until

END = "that was the block"


class Shell:
    """Bash in a directory; stops at the first failing command. ``close`` ends all processes that it left running.

    Its standard output and error go into hidden files of its HOME.
    """

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        home = Path(environ["HOME"])
        self._block, self._printed, self._said = home / ".block", home / ".printed", home / ".said"
        self.printed = ""
        """Standard output of the last block."""
        with self._printed.open("wb") as printed, self._said.open("wb") as said:
            self._bash = subprocess.Popen(
                ["bash", "--norc", "-euo", "pipefail"],
                cwd=directory,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=said,
                text=True,
                start_new_session=True,
            )

    @property
    def directory(self) -> Path:
        """Return the current directory."""
        return Path(f"/proc/{self._bash.pid}/cwd").resolve()

    def run(self, block: str, seconds: float = 60) -> str:
        """Run a block of commands; return its standard output."""
        before = len(self._printed.read_text(encoding="utf-8"))
        assert self._bash.stdin is not None
        self._block.write_text(block, encoding="utf-8")
        # Commands must not read the shell's own input.
        self._bash.stdin.write(f"source {self._block} </dev/null\necho {END}\n")
        self._bash.stdin.flush()
        wait_until(lambda: END in self._printed.read_text(encoding="utf-8")[before:] or self._bash.poll(), seconds)
        assert self._bash.poll() is None, f"{block}\n{self.said}"
        self.printed = self._printed.read_text(encoding="utf-8")[before:].replace(f"{END}\n", "")
        return self.printed

    @property
    def said(self) -> str:
        """Return the standard error of all blocks so far."""
        return self._said.read_text(encoding="utf-8")

    def close(self) -> None:
        """End the shell and the remaining processes of its process group."""
        if self._bash.stdin is not None:
            self._bash.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.wait(20)
