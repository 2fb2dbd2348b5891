"""Abstract values: the facts known about tensors, structs and functions without running them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from fedbroker.graphs.tensors import Constant

__all__ = [
    "NO_NAMES",
    "Combined",
    "Computed",
    "Constant",
    "Function",
    "Input",
    "Known",
    "NotUnderstood",
    "Reduction",
    "Struct",
    "Value",
    "inputs_of",
    "leaves",
    "select",
]

Reduction = Literal["sum", "min", "max"]

MAX_ELEMENTS: Final = 100_000
"""A bound on the time to walk a struct, which may contain the same struct many times."""
NO_NAMES: Final[frozenset[Hashable]] = frozenset()


class NotUnderstood(ValueError):
    """A computation whose result cannot be determined in advance."""


class Value:
    """The value of an expression."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Input(Value):
    """A value that the computation receives from outside.

    Attributes:
        name: identifies it.
        opaque: it may be a struct, whose elements are not distinguished: each has the same name.
    """

    name: Hashable
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Known(Value):
    """A tensor with known content."""

    constant: Constant


@dataclass(frozen=True, slots=True)
class Computed(Value):
    """A tensor that an op computes.

    Attributes:
        op: the last op that contributes to it.
        inputs: names of the inputs that it may depend on.
        pure: it is a function of these inputs alone: no op has a state or an effect.
    """

    op: str
    inputs: frozenset[Hashable]
    pure: bool


@dataclass(frozen=True, slots=True)
class Combined(Value):
    """The sum, the minimum or the maximum of numeric tensors, element by element; with broadcasting.

    Attributes:
        reduction: how they are combined.
        dtype: TensorFlow's number of their type.
        terms: the tensors; the order in which they are combined is undefined.
        inputs: names of the inputs that it may depend on.
        checked: names of the inputs that decide whether it fails.
        pure: see :class:`Computed`.
    """

    reduction: Reduction
    dtype: int
    terms: tuple[Input | Known | Computed, ...]
    inputs: frozenset[Hashable]
    checked: frozenset[Hashable] = NO_NAMES
    pure: bool = True


@dataclass(frozen=True, slots=True)
class Struct(Value):
    """Several values.

    Attributes:
        elements: in order; their names mean nothing to the runtime.
        size: its leaves and structs; a value that occurs twice counts twice.
    """

    elements: tuple[Value, ...]
    size: int

    @classmethod
    def of(cls, elements: Iterator[Value] | list[Value] | tuple[Value, ...]) -> Struct:
        """Return a struct of these elements.

        Raises:
            NotUnderstood: it is too large.
        """
        members = tuple(elements)
        size = 1 + sum(element.size if isinstance(element, Struct) else 1 for element in members)
        if size > MAX_ELEMENTS:
            raise NotUnderstood("a struct in it is too large")
        return cls(members, size)


class Function(Value, ABC):
    """A function of abstract values."""

    __slots__ = ()

    @abstractmethod
    def call(self, argument: Value | None) -> Value:
        """Return the function's result for an argument.

        Raises:
            NotUnderstood: the result cannot be determined.
        """


def select(source: Value, index: int) -> Value:
    """Return an element of a struct.

    Raises:
        NotUnderstood: the struct has no such element.
    """
    if isinstance(source, Struct) and 0 <= index < len(source.elements):
        return source.elements[index]
    if isinstance(source, Input) and source.opaque:
        return source
    raise NotUnderstood("it selects an element that does not exist")


def leaves(value: Value) -> list[Value]:
    """Return every value in a value that is not a struct, in order."""
    if not isinstance(value, Struct):
        return [value]
    return [leaf for element in value.elements for leaf in leaves(element)]


def inputs_of(tensor: Value) -> frozenset[Hashable]:
    """Return the names of the inputs that a tensor may depend on.

    Raises:
        NotUnderstood: it is not a tensor.
    """
    match tensor:
        case Input(name):
            return frozenset([name])
        case Known():
            return NO_NAMES
        case Computed(_, inputs) | Combined(inputs=inputs):
            return inputs
        case _:
            raise NotUnderstood("it computes with something that is no tensor")
