"""A kind of data source for silos of the matrix: one number, read only while no file called ``hold`` is there.

Written into a directory on the silos' module search path, since silos run as processes of their own.
"""

from __future__ import annotations

from pathlib import Path

from fedbroker_worker.sources.registry import GROUP

MODULE = """
import time
import numpy
from fedbroker.wire.messages import Column, Source


class Gated:
    def __init__(self, name, options, directory):
        self.value = options["value"]
        self.reads = directory / "reads"
        self.hold = directory / "hold"

    def describe(self):
        return Source((Column("x", "float32"),), rows=1)

    def read(self, columns):
        with self.reads.open("a") as reads:
            reads.write("read\\n")
        limit = time.monotonic() + 60
        while self.hold.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        return [{"x": numpy.full(1, self.value, numpy.float32)}]

    def interrupt(self):
        pass

    def close(self):
        pass
"""


def install(directory: Path) -> None:
    """Make ``source = "gated"`` known to whoever has ``directory`` on its module search path."""
    metadata = directory / "gated-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gated\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\ngated = gated_source:Gated\n")
    (directory / "gated_source.py").write_text(MODULE)
