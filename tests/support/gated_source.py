"""A kind of data source that returns one number when the test permits it, for silos in this and other processes.

It is written into a directory on the silos' module search path, where silos look up their kinds of sources.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from fedbroker_worker.sources.protocol import GROUP

__all__ = ["block_reads", "gated_source", "let_reads_return", "read_count", "unblock_reads"]

MODULE = """
import time
import numpy
from fedbroker.wire.messages import Column, Source


class Gated:
    def __init__(self, name, options, directory):
        self.value = options.get("value", 1.0)
        self.waits = options.get("waits", False)
        self.reads = directory / "reads"
        self.go = directory / "go"
        self.hold = directory / "hold"

    def describe(self):
        return Source((Column("x", "float32"),), rows=1)

    def shut(self):
        return self.hold.exists() or (self.waits and not self.go.exists())

    def read(self, columns):
        with self.reads.open("a") as reads:
            reads.write("read\\n")
        limit = time.monotonic() + 60
        while self.shut() and time.monotonic() < limit:
            time.sleep(0.01)
        return [{"x": numpy.full(1, self.value, numpy.float32)}]

    def interrupt(self):
        pass

    def close(self):
        pass
"""


def gated_source(directory: Path, **options: object) -> dict[str, object]:
    """Return the settings of such a source; ``directory``, where it is written, must be on the module search path.

    Args:
        directory: created if it does not exist.
        options: ``value``, the number (1.0); ``waits``, whether reads wait for :func:`go`.
    """
    module = f"gated_{secrets.token_hex(4)}"
    metadata = directory / "gated-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\ngated = {module}:Gated\n")
    (directory / f"{module}.py").write_text(MODULE)
    return {"source": "gated"} | options


def read_count(directory: Path) -> int:
    """Return how often the source in that directory was read."""
    path = directory / "reads"
    return len(path.read_text().splitlines()) if path.exists() else 0


def let_reads_return(directory: Path) -> None:
    """Let the reads of a waiting source return."""
    (directory / "go").touch()


def block_reads(directory: Path) -> None:
    """Block reads until :func:`release`."""
    (directory / "hold").touch()


def unblock_reads(directory: Path) -> None:
    """Let blocked reads return."""
    (directory / "hold").unlink(missing_ok=True)
