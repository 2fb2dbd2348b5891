"""TensorFlow's ops: the known ones, and the families that a silo refuses by default.

An op is allowed if it is on the list and in no refused family. A list of the refused ops alone would allow every op
that a newer TensorFlow adds; a list of the allowed ops alone, written by hand, would refuse half of the programs. So
``scripts/ops.py`` writes this list from TensorFlow's own registry, by families of names, and an op that is not on it,
such as an op of a separate library, is refused as unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Final

__all__ = ["FAMILIES", "known_ops", "why_refused"]

FAMILIES: Final[Mapping[str, str]] = {
    "files": "reads or writes files",
    "network": "reaches other machines or devices",
    "output": "writes to standard error or to files",
    "processes": "ends the process",
    "python": "calls Python",
    "code": "runs code that comes as a value, which cannot be looked into beforehand",
    "in_place": "overwrites tensors that others still read",
    "shared": "leaves values behind for other computations",
}
"""The effect of each refused family's ops, for people."""


@functools.cache
def known_ops() -> Mapping[str, str]:
    """Return every op of TensorFlow with its family; the family of an allowed op is empty."""
    text = resources.files(__package__).joinpath("ops.txt").read_text(encoding="ascii")
    pairs = (line.split() for line in text.splitlines())
    return {op: "" if family == "-" else family for op, family in pairs}


def why_refused(op: str) -> str:
    """Return why an op is refused; an empty string for an allowed op."""
    family = known_ops().get(op)
    if family is None:
        return "unknown"
    return FAMILIES[family] if family else ""
