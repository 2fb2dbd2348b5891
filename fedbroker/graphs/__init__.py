"""Analysis of the TensorFlow graphs in a value, from their ops, before any of them runs; without TensorFlow."""

from __future__ import annotations

from fedbroker.graphs.graphdef import Unreadable, known_ops, why_refused
from fedbroker.graphs.reading import Position, ops_of_computation, ops_of_graph, position_in

__all__ = [
    "Position",
    "Unreadable",
    "known_ops",
    "ops_of_computation",
    "ops_of_graph",
    "position_in",
    "why_refused",
]
