"""Find the op at which a computation failed, from the C++ runtime's error message, without passing on the message.

TensorFlow appends the node's name to the message, as in ``… [[{{node StringToNumber}}]]``. The rest of the message, and
the name itself, may contain text that a graph computed from its data. So names are only looked up: the result is an op
that is in the graph, and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fedbroker.graphs.ops import known_ops
from fedbroker.graphs.reading import graphs_of_computation
from fedbroker.graphs.references import Resolved
from fedbroker.runtime.values import Buffer

__all__ = ["Position", "position_in"]

_NAME: Final = r"([A-Za-z0-9._][A-Za-z0-9._\\/>-]{0,999})"
_NODE: Final = re.compile(rf"(?:\{{\{{function_node {_NAME}\}}\}} ?)?\{{\{{node {_NAME}\}}\}}")
# Bounds on the search: the message may contain data of any size, and names that a graph made of it.
_MOST_NAMES: Final = 16
_MOST_WORDS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Position:
    """A node of a computation; all numbers count from 0, in the order in which the computation is serialized.

    Attributes:
        op: TensorFlow's name of its op.
        graph: number of its graph among the computation's graphs.
        function: number of its function among the graph's functions; None for the graph itself.
        node: its number among the nodes of that graph or function.
    """

    op: str
    graph: int
    function: int | None
    node: int


def position_in(serialized: Buffer, words: str) -> Position | None:
    """Find the node of a computation that the runtime's error message names; None if it names none.

    Args:
        serialized: a ``Computation``.
        words: the runtime's error message; it may contain data.

    Raises:
        Unreadable: the computation is malformed or too large.
    """
    said = [((found[1] or "").encode(), found[2].encode()) for found in _NODE.finditer(words[-_MOST_WORDS:])]
    named = list(dict.fromkeys(reversed(said)))[:_MOST_NAMES]  # the last ones are TensorFlow's own
    if not named:
        return None
    for number, graph in enumerate(graphs_of_computation(serialized)):
        there = _positions(graph, number)
        for function, name in named:
            # The name of a node of an inlined function is prefixed with the caller's name.
            for inner in _endings(name):
                if (found := there.get((function, inner)) or there.get((None, inner))) is not None:
                    return found
    return None


def _positions(graph: Resolved, number: int) -> dict[tuple[bytes | None, bytes], Position]:
    """Return the nodes of known ops by function and name; for None, the first node whose name is or ends in that."""
    found: dict[tuple[bytes | None, bytes], Position] = {}
    known = known_ops()
    for at, body in enumerate(graph.bodies):
        for node, (name, message) in enumerate(body.nodes.items()):
            op = message.op.decode("utf-8", "replace")
            if op in known:
                position = Position(op, number, at - 1 if at else None, node)
                found[body.name, name] = position
                found.setdefault((None, name), position)
    # A graph may have its functions inlined, while TensorFlow still names the node as in the function.
    for (function, name), position in list(found.items()):
        if function is not None:
            for ending in _endings(name):
                found.setdefault((None, ending), position)
    return found


def _endings(name: bytes) -> Iterator[bytes]:
    while name:
        yield name
        name = name.partition(b"/")[2]
