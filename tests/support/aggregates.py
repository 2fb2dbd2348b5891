"""Aggregates made of TensorFlow functions, as computations for a silo and as graphs that TensorFlow runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fedbroker.graphs.calculus import Evaluator
from fedbroker.graphs.expressions import Function, NotUnderstood, Value
from fedbroker.runtime.protos import computation_pb2


def no_intrinsics(uri: str) -> Function:
    raise NotUnderstood(f"the intrinsic {uri}")


def evaluate(computation) -> Value:
    """Return the evaluated meaning of a computation."""
    return Evaluator(no_intrinsics).evaluate(computation)


@dataclass(frozen=True)
class Graph:
    """A function of groups of tensors, with the names of its inputs and outputs.

    Attributes:
        graph: a ``GraphDef``.
        groups: for each argument, the names of its tensors.
        results: the names of the returned tensors.
    """

    graph: tf.compat.v1.GraphDef
    groups: Sequence[Sequence[str]]
    results: Sequence[str]

    @property
    def computation(self):
        """Build a ``Computation``; an argument or a result of several tensors is a struct."""
        computation = computation_pb2.Computation()
        tensorflow = computation.tensorflow
        tensorflow.graph_def.Pack(self.graph)
        for group in self.groups:
            bind(tensorflow.parameter.struct.element.add(), group)
        bind(tensorflow.result, self.results)
        return computation

    @property
    def function(self) -> Function:
        """Return the function that the evaluator derives from the graph."""
        function = evaluate(self.computation)
        assert isinstance(function, Function)
        return function

    def run(self, *groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the graph in TensorFlow."""
        fed = {
            name: value
            for names, values in zip(self.groups, groups, strict=True)
            for name, value in zip(names, values, strict=True)
        }
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
            tf.import_graph_def(self.graph, name="")
            return session.run(list(self.results), fed)


def bind(binding, names: Sequence[str]) -> None:
    """Name the tensors of an argument or a result."""
    if len(names) == 1:
        binding.tensor.tensor_name = names[0]
    for name in names if len(names) != 1 else ():
        binding.struct.element.add().tensor.tensor_name = name


def trace(function: Callable, *groups: Sequence[tf.TensorSpec]) -> Graph:
    """Trace a function that takes and returns lists of tensors."""
    with tf.Graph().as_default() as graph:
        arguments = [
            [tf.compat.v1.placeholder(spec.dtype, spec.shape, f"arg_{at}_{index}") for index, spec in enumerate(group)]
            for at, group in enumerate(groups)
        ]
        results = function(*arguments)
    names = [[tensor.name for tensor in group] for group in arguments]
    return Graph(graph.as_graph_def(), names, [result.name for result in results])
