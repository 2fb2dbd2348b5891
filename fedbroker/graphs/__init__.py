"""Analysis of the TensorFlow graphs in a value, from their ops, before any of them runs; without TensorFlow."""

from __future__ import annotations

from fedbroker.graphs.graphdef import Unreadable
from fedbroker.graphs.ops import known_ops, why_refused
from fedbroker.graphs.positions import Position, position_in
from fedbroker.graphs.reading import ops_of_computation, ops_of_graph

__all__ = [
    "Position",
    "Unreadable",
    "known_ops",
    "ops_of_computation",
    "ops_of_graph",
    "position_in",
    "why_refused",
]
