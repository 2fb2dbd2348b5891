"""Abstract values: what is known of tensors, structs and functions without running anything."""

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

MOST_ELEMENTS: Final = 100_000
NO_NAMES: Final[frozenset[Hashable]] = frozenset()


class NotUnderstood(ValueError):
    """A computation does something whose outcome cannot be told beforehand."""


class Value:
    """What an expression stands for."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Input(Value):
    """A value that comes from outside of the computation.

    Attributes:
        name: tells it from others.
        whole: it may be a struct, whose elements are not told apart: each stands for the whole.
    """

    name: Hashable
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Known(Value):
    """A tensor whose content is known."""

    constant: Constant


@dataclass(frozen=True, slots=True)
class Computed(Value):
    """A tensor that an op computes.

    Attributes:
        op: the last op that has a part in it.
        inputs: names of the inputs that it may depend on.
        pure: it is a function of those alone: no op has a state or an effect.
    """

    op: str
    inputs: frozenset[Hashable]
    pure: bool


@dataclass(frozen=True, slots=True)
class Combined(Value):
    """Numeric tensors added, or the smallest or the largest of each of their elements; with broadcasting.

    Attributes:
        reduction: how they are combined.
        dtype: TensorFlow's number of their type.
        terms: the tensors, in whatever order they are combined.
        inputs: names of the inputs that it may depend on.
        checked: names of those that decide whether it fails.
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
        size: leaves in it, counting what occurs twice twice.
    """

    elements: tuple[Value, ...]
    size: int

    @classmethod
    def of(cls, elements: Iterator[Value] | list[Value] | tuple[Value, ...]) -> Struct:
        """Make one.

        Raises:
            NotUnderstood: it is too large.
        """
        every = tuple(elements)
        size = 1 + sum(one.size if isinstance(one, Struct) else 1 for one in every)
        if size > MOST_ELEMENTS:
            raise NotUnderstood("a struct in it is too large")
        return cls(every, size)


class Function(Value, ABC):
    """A function of abstract values."""

    __slots__ = ()

    @abstractmethod
    def call(self, argument: Value | None) -> Value:
        """Return what it returns.

        Raises:
            NotUnderstood: that cannot be told.
        """


def select(source: Value, index: int) -> Value:
    """Return an element of a struct.

    Raises:
        NotUnderstood: there is none.
    """
    if isinstance(source, Struct) and 0 <= index < len(source.elements):
        return source.elements[index]
    if isinstance(source, Input) and source.whole:
        return source
    raise NotUnderstood("it selects an element that is not there")


def leaves(value: Value) -> list[Value]:
    """Return everything in a value that is no struct, in order."""
    if not isinstance(value, Struct):
        return [value]
    return [leaf for element in value.elements for leaf in leaves(element)]


def inputs_of(tensor: Value) -> frozenset[Hashable]:
    """Return the names of the inputs that a tensor may depend on.

    Raises:
        NotUnderstood: it is no tensor.
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
