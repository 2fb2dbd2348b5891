"""What a computation in TFF's calculus of functions evaluates to, as abstract values.

Whoever evaluates one says what its intrinsics mean; by themselves they mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from fedbroker.graphs.dataflow import TensorFlow
from fedbroker.graphs.expressions import NO_NAMES, Computed, Function, Known, NotUnderstood, Struct, Value, select
from fedbroker.graphs.graphdef import Message
from fedbroker.graphs.tensors import read_array

__all__ = ["Closure", "Evaluator", "Intrinsics"]

MOST_STEPS: Final = 300_000
DEEPEST: Final = 100
"""Evaluations in evaluations. Protobuf itself allows a hundred messages in one another."""

Intrinsics: TypeAlias = Callable[[str], Function]
"""The function that an intrinsic is, by its URI; raises :class:`NotUnderstood`."""

Scope: TypeAlias = Mapping[str, Value]


@dataclass(slots=True)
class Evaluator:
    """Evaluates computations.

    Attributes:
        intrinsics: what the intrinsics in them are.
    """

    intrinsics: Intrinsics
    _steps: int = 0
    _depth: int = 0

    def evaluate(self, computation: Message, scope: Scope | None = None) -> Value:
        """Return what a ``Computation`` stands for.

        Raises:
            NotUnderstood: that cannot be told.
        """
        self._steps += 1
        if self._steps > MOST_STEPS or self._depth > DEEPEST:
            raise NotUnderstood("it is too large, or nested too deeply")
        self._depth += 1
        try:
            return self._evaluate(computation, scope or {})
        finally:
            self._depth -= 1

    def _evaluate(self, one: Message, scope: Scope) -> Value:
        match one.WhichOneof("computation"):
            case "tensorflow":
                return TensorFlow(one.tensorflow, one.type.function)
            case "intrinsic":
                return self.intrinsics(one.intrinsic.uri)
            case "lambda":
                return Closure(self, getattr(one, "lambda"), one.type.function, scope)
            case "block":
                inner = dict(scope)
                for local in one.block.local:
                    value = self.evaluate(local.value, inner)
                    if local.name in inner:  # functions that were made before see what had the name then
                        self._steps += len(inner)
                        inner = dict(inner)
                    inner[local.name] = value
                return self.evaluate(one.block.result, inner)
            case "reference":
                if one.reference.name not in scope:
                    raise NotUnderstood("it refers to a value that is not there")
                return scope[one.reference.name]
            case "call":
                function = self.evaluate(one.call.function, scope)
                argument = self.evaluate(one.call.argument, scope) if one.call.HasField("argument") else None
                if not isinstance(function, Function):
                    raise NotUnderstood("it calls something that is no function")
                return function.call(argument)
            case "struct":
                return Struct.of([self.evaluate(element.value, scope) for element in one.struct.element])
            case "selection":
                return select(self.evaluate(one.selection.source, scope), one.selection.index)
            case "literal":
                constant = read_array(one.literal.value)
                return Computed("a literal", NO_NAMES, pure=True) if constant is None else Known(constant)
            case kind:
                raise NotUnderstood(f"it holds {kind or 'a computation of an unknown kind'}")


@dataclass(frozen=True, slots=True, eq=False)
class Closure(Function):
    """A function that is written in the calculus.

    Attributes:
        evaluator: evaluates its body.
        proto: the message ``Lambda``.
        type: the message ``FunctionType`` that it is declared with.
        scope: the values around it.
    """

    evaluator: Evaluator
    proto: Message
    type: Message
    scope: Scope = field(repr=False)

    def call(self, argument: Value | None) -> Value:
        """See :class:`Function`."""
        name = self.proto.parameter_name
        if bool(name) != (argument is not None):
            raise NotUnderstood("a function in it is called with too many or too few arguments")
        return self.evaluator.evaluate(
            self.proto.result, self.scope if argument is None else {**self.scope, name: argument}
        )

    def captured(self) -> Iterator[Value]:
        """Return the values from around it that it may refer to."""
        for name in _references(self.proto.result):
            if name != self.proto.parameter_name and name in self.scope:
                yield self.scope[name]


def _references(computation: Message) -> set[str]:
    """Every name that is referred to in a computation, wherever it is bound."""
    found: set[str] = set()
    waiting = [computation]
    while waiting:
        one = waiting.pop()
        match one.WhichOneof("computation"):
            case "reference":
                found.add(one.reference.name)
            case "lambda":
                waiting.append(getattr(one, "lambda").result)
            case "block":
                waiting += [local.value for local in one.block.local]
                waiting.append(one.block.result)
            case "call":
                waiting += [one.call.function, one.call.argument]
            case "struct":
                waiting += [element.value for element in one.struct.element]
            case "selection":
                waiting.append(one.selection.source)
    return found
