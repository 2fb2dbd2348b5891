"""Shapes of values in generated programs, and the arithmetic of their functions in NumPy.

A shape is a leaf, or a tuple or ordered dict of shapes. Functions fold all leaves of a value into one number and make a
value of another shape of that number. All leaves are small whole numbers, so sums are exact in any order; only a mean
has fractions, and functions round their arguments.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_federated as tff

Odict = collections.OrderedDict
N, L, F, D = np.int32, np.int64, np.float32, np.float64
V = tff.TensorType(N, [2])
LEAVES = {N: "N", L: "L", F: "F", D: "D", V: "V"}

MODULUS = 997
"""Numbers of functions are below it, so that a sum of products of two is exact in float32."""

SHAPES = (
    N,
    F,
    (N, F),
    Odict(z=F, a=N),
    Odict(a=N, z=L),
    Odict(y=F, x=F),
    (F,),
    Odict(only=N),
    Odict(second=(N, Odict(y=F, x=())), first=D),
    (V, F),
    ((F, D), Odict(b=F)),
)
"""Names are in the order of the alphabet in one and not in others, since TensorFlow sorts them."""


@dataclass(frozen=True)
class Sequence:
    """The shape of a sequence."""

    element: Any


def is_struct(shape) -> bool:
    return isinstance(shape, (tuple, dict))


def elements(struct) -> list:
    """Return the elements of a tuple, list or dict, from left to right."""
    return list(struct.values()) if isinstance(struct, dict) else list(struct)


def leaf_shapes(shape) -> list:
    """Return the leaves of a shape, from left to right."""
    return [leaf for part in elements(shape) for leaf in leaf_shapes(part)] if is_struct(shape) else [shape]


def dtype_of(leaf):
    return N if leaf is V else leaf


def text_of(shape) -> str:
    """Return a shape as source."""
    return struct_text(shape, text_of) if is_struct(shape) else LEAVES[shape]


def struct_text(struct, text: Callable[[Any], str]) -> str:
    """Return a struct as source, given the source of its elements."""
    if isinstance(struct, dict):
        return f"Odict({', '.join(f'{name}={text(part)}' for name, part in struct.items())})"
    inner = ", ".join(text(part) for part in struct)
    return f"({inner},)" if len(struct) == 1 else f"({inner})"


def literal_text(value) -> str:
    """Return a value as source; its numbers keep their dtypes."""
    if is_struct(value):
        return struct_text(value, literal_text)
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()}, N)"
    return f"{LEAVES[type(value)]}({value.item()!r})"


def build(shape, leaf: Callable[[Any, int], Any], numbers: Iterator[int] | None = None):
    """Build a value of a shape; ``leaf`` makes each leaf of its shape and its number from left to right."""
    numbers = iter(range(1_000)) if numbers is None else numbers
    if isinstance(shape, dict):
        return Odict((name, build(part, leaf, numbers)) for name, part in shape.items())
    if isinstance(shape, tuple):
        return tuple(build(part, leaf, numbers) for part in shape)
    return leaf(shape, next(numbers))


# --- the functions of ``parts`` in NumPy ---


def leaves(value) -> list:
    """Return the leaves of a value, from left to right."""
    if isinstance(value, (tuple, list, dict)):
        return [leaf for part in elements(value) for leaf in leaves(part)]
    return [value]


def folded(value, constant: int) -> int:
    """Return all leaves of a value as one number below the modulus."""
    total = constant
    for weight, leaf in enumerate(leaves(value), 1):
        total += weight * int(np.sum(np.rint(leaf).astype(np.int64) % MODULUS))
    return total % MODULUS


def number_for(number: int, at: int) -> int:
    """Return the number of a made value's leaf."""
    return (number * (at + 2) + at) % MODULUS - MODULUS // 2


def make(shape, number: int):
    """Make a value of one number."""

    def leaf(kind, at):
        one = number_for(number, at)
        return np.array([one, one + 1], N) if kind is V else kind(one)

    return build(shape, leaf)


def small(shape, number: int):
    """Make a value whose leaves are from 1 to 5."""
    return build(
        shape, lambda kind, at: np.full(2, 1 + (number + at) % 5, N) if kind is V else kind(1 + (number + at) % 5)
    )


def leaf_by_leaf(function: Callable[..., Any], shape, *values):
    """Apply a function to the leaves of values of one shape."""
    flat = [leaves(value) for value in values]

    def leaf(kind, at):
        result = np.asarray(function(*(one[at] for one in flat)), dtype_of(kind))
        return result if kind is V else result[()]

    return build(shape, leaf)
