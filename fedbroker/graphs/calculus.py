"""Evaluate computations of TFF's calculus of functions to abstract values.

The caller supplies the meaning of intrinsics; by themselves they have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from fedbroker.graphs.dataflow import TensorFlow
from fedbroker.graphs.expressions import NO_NAMES, Computed, Function, Known, NotUnderstood, Struct, Value, select
from fedbroker.graphs.graphdef import Message
from fedbroker.graphs.tensors import read_array
from fedbroker.runtime.protos import leaves

__all__ = ["Closure", "Evaluator", "Intrinsics"]

MAX_STEPS: Final = 300_000
"""A bound on the time that one evaluation takes: a computation is input from others."""
MAX_DEPTH: Final = 100
"""Nested evaluations. Protobuf itself allows a hundred nested messages."""

Intrinsics: TypeAlias = Callable[[str], Function]
"""The function of an intrinsic, by its URI; raises :class:`NotUnderstood`."""

Scope: TypeAlias = Mapping[str, Value]


@dataclass(slots=True)
class Evaluator:
    """Evaluates computations.

    Attributes:
        intrinsics: the functions of the intrinsics.
    """

    intrinsics: Intrinsics
    _steps: int = 0
    _depth: int = 0

    def evaluate(self, computation: Message, scope: Scope | None = None) -> Value:
        """Return the value of a ``Computation``.

        Raises:
            NotUnderstood: its value cannot be determined.
        """
        self._steps += 1
        if self._steps > MAX_STEPS or self._depth > MAX_DEPTH:
            raise NotUnderstood("it is too large, or nested too deeply")
        self._depth += 1
        try:
            return self._evaluate(computation, scope or {})
        finally:
            self._depth -= 1

    def _evaluate(self, computation: Message, scope: Scope) -> Value:
        match computation.WhichOneof("computation"):
            case "tensorflow":
                return TensorFlow(computation.tensorflow, computation.type.function)
            case "intrinsic":
                return self.intrinsics(computation.intrinsic.uri)
            case "lambda":
                return Closure(self, getattr(computation, "lambda"), computation.type.function, scope)
            case "block":
                inner = dict(scope)
                for local in computation.block.local:
                    value = self.evaluate(local.value, inner)
                    if local.name in inner:  # earlier closures keep the earlier value of the name
                        self._steps += len(inner)
                        inner = dict(inner)
                    inner[local.name] = value
                return self.evaluate(computation.block.result, inner)
            case "reference":
                if computation.reference.name not in scope:
                    raise NotUnderstood("it refers to a value that does not exist")
                return scope[computation.reference.name]
            case "call":
                function = self.evaluate(computation.call.function, scope)
                argument = (
                    self.evaluate(computation.call.argument, scope) if computation.call.HasField("argument") else None
                )
                if not isinstance(function, Function):
                    raise NotUnderstood("it calls something that is no function")
                return function.call(argument)
            case "struct":
                return Struct.of([self.evaluate(element.value, scope) for element in computation.struct.element])
            case "selection":
                return select(self.evaluate(computation.selection.source, scope), computation.selection.index)
            case "literal":
                constant = read_array(computation.literal.value)
                return Computed("a literal", NO_NAMES, pure=True) if constant is None else Known(constant)
            case kind:
                raise NotUnderstood(f"it holds {kind or 'a computation of an unknown kind'}")


@dataclass(frozen=True, slots=True, eq=False)
class Closure(Function):
    """A function defined in the calculus.

    Attributes:
        evaluator: evaluates its body.
        proto: the message ``Lambda``.
        type: the message ``FunctionType`` that it is declared with.
        scope: the values in scope at its definition.
    """

    evaluator: Evaluator
    proto: Message
    type: Message
    scope: Scope = field(repr=False)

    def call(self, argument: Value | None) -> Value:
        """Return its result; see :class:`Function`."""
        name = self.proto.parameter_name
        if bool(name) != (argument is not None):
            raise NotUnderstood("a function in it is called with too many or too few arguments")
        return self.evaluator.evaluate(
            self.proto.result, self.scope if argument is None else {**self.scope, name: argument}
        )

    def captured(self) -> Iterator[Value]:
        """Yield the values of the surrounding scope that it may refer to."""
        for name in _referenced_names(self.proto.result):
            if name != self.proto.parameter_name and name in self.scope:
                yield self.scope[name]


def _referenced_names(computation: Message) -> set[str]:
    """Return every name that a computation refers to, bound or not."""
    return {leaf.reference.name for leaf in leaves(computation) if leaf.WhichOneof("computation") == "reference"}
