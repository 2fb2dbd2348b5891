"""Where in a computation an op failed, by what the C++ runtime says of it, without anything else of its words.

TensorFlow names the node behind its words, as in ``… [[{{node StringToNumber}}]]``. Before it, and in it, may be what a
graph made of its data. So names are looked up only: what is told is an op that is in the graph, and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fedbroker.graphs.ops import known_ops
from fedbroker.graphs.reading import graphs_of_computation
from fedbroker.graphs.references import Resolved
from fedbroker.runtime.framing import Buffer

__all__ = ["Position", "position_in"]

_NAME: Final = r"([A-Za-z0-9._][A-Za-z0-9._\\/>-]{0,999})"
_NODE: Final = re.compile(rf"(?:\{{\{{function_node {_NAME}\}}\}} ?)?\{{\{{node {_NAME}\}}\}}")
_MOST_NAMES: Final = 16
_MOST_WORDS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Position:
    """A node of a computation; all numbers count from 0, in the order in which the computation is serialized.

    Attributes:
        op: what TensorFlow calls its op.
        graph: which of the computation's graphs it is in.
        function: which of the graph's functions; None for the graph itself.
        node: which node of these.
    """

    op: str
    graph: int
    function: int | None
    node: int


def position_in(serialized: Buffer, words: str) -> Position | None:
    """Find the node of a computation that the runtime's words name, or None.

    Args:
        serialized: a ``Computation``.
        words: the runtime's; they may hold data.

    Raises:
        Unreadable: the computation is malformed or too large.
    """
    said = [((found[1] or "").encode(), found[2].encode()) for found in _NODE.finditer(words[-_MOST_WORDS:])]
    named = list(dict.fromkeys(reversed(said)))[:_MOST_NAMES]  # TensorFlow's own are the last
    if not named:
        return None
    for number, graph in enumerate(graphs_of_computation(serialized)):
        there = _positions(graph, number)
        for function, name in named:
            # A function's node that was inlined has the caller's name before its own.
            for inner in _endings(name):
                if (found := there.get((function, inner)) or there.get((None, inner))) is not None:
                    return found
    return None


def _positions(graph: Resolved, number: int) -> dict[tuple[bytes | None, bytes], Position]:
    """Return the nodes of known ops by function and name; for None, the first with that name or ending in any."""
    found: dict[tuple[bytes | None, bytes], Position] = {}
    known = known_ops()
    for at, body in enumerate(graph.bodies):
        for node, (name, message) in enumerate(body.nodes.items()):
            op = message.op.decode("utf-8", "replace")
            if op in known:
                position = Position(op, number, at - 1 if at else None, node)
                found[body.name, name] = position
                found.setdefault((None, name), position)
    # A graph may come with its functions inlined, while TensorFlow still names the node as it was in the function.
    for (function, name), position in list(found.items()):
        if function is not None:
            for ending in _endings(name):
                found.setdefault((None, ending), position)
    return found


def _endings(name: bytes) -> Iterator[bytes]:
    while name:
        yield name
        name = name.partition(b"/")[2]
