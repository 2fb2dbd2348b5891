"""TensorFlow's ops: which there are, and which of them are refused from others unless one is told otherwise.

An op is allowed if it is on the list and in no family that is refused there. A list of the refused ones alone would
let through whatever a newer TensorFlow brings; a list of the allowed ones alone, written by hand, would refuse half of
the programs. So ``scripts/ops.py`` writes this list from TensorFlow's own registry, by families of names, and an op
that is not on it, such as one of a library of its own, is refused as unknown. Imports nothing.
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
"""What the ops of each family that is refused do, for people."""


@functools.cache
def known_ops() -> Mapping[str, str]:
    """Every op of TensorFlow with its family, which is empty for those that are allowed."""
    text = resources.files(__package__).joinpath("ops.txt").read_text(encoding="ascii")
    pairs = (line.split() for line in text.splitlines())
    return {op: "" if family == "-" else family for op, family in pairs}


def why_refused(op: str) -> str:
    """Why an op is refused from others; empty for one that is not."""
    family = known_ops().get(op)
    if family is None:
        return "unknown"
    return FAMILIES[family] if family else ""
