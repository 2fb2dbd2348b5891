"""Recognise aggregates that are sums, minima or maxima over clients, from their functions, never from a name.

An aggregate over clients has a zero, from which each silo starts, ``accumulate(total, value)``, ``merge(left, right)``
and ``report(total)``. It is recognised if each tensor of the zero is the neutral constant, ``accumulate`` adds
something to that tensor that does not depend on the total so far, ``merge`` adds the two, and ``report`` returns them.
A tensor that ``accumulate`` returns unchanged keeps its value in the zero.

``accumulate`` may add one tensor to a sum of floating-point numbers. Of several, a huge one would absorb the total so
far and its opposite would remove the huge one, which leaves the tensor that is added last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedbroker.graphs.expressions import (
    Combined,
    Computed,
    Function,
    Input,
    Known,
    NotUnderstood,
    Reduction,
    Struct,
    Value,
    inputs_of,
    leaves,
)
from fedbroker.graphs.tensors import BFLOAT16, DTYPES, Constant, dtype_name

__all__ = ["NotRecognised", "Total", "recognise", "recognise_merge"]


class NotRecognised(ValueError):
    """An aggregate that is none of the known ones.

    Attributes:
        why: one line.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Total:
    """One tensor of a recognised aggregate.

    Attributes:
        reduction: the reduction over clients, for each element of the tensor.
        dtype: TensorFlow's number of its type.
        shape: its dimensions, which depend neither on the clients' data nor on their number.
    """

    reduction: Reduction
    dtype: int
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Return its type, as TFF writes it."""
        return dtype_name(self.dtype) + (f"[{','.join(map(str, self.shape))}]" if self.shape else "")


_VERBS: Final = {"sum": "adds", "min": "takes the smaller of", "max": "takes the larger of"}


def recognise(zero: Value, accumulate: Function, merge: Function, report: Function | None = None) -> Value:
    """Recognise an aggregate.

    Args:
        zero: the value from which each silo starts.
        accumulate: a function of the total so far and a client's value.
        merge: a function of two silos' totals.
        report: a function of the final total; None for the identity.

    Returns:
        The reported value: structs of :class:`Input`, each named by its :class:`Total`.

    Raises:
        NotRecognised: it is another aggregate, or it cannot be read.
    """
    zeros = leaves(zero)
    accumulator = _inputs_like(zero, "so far")
    accumulated = leaves(_call("accumulate", accumulate, Struct.of([accumulator, Input("client", opaque=True)]), zero))
    unchanged = frozenset(index for index, leaf in enumerate(accumulated) if leaf == Input(("so far", index)))
    tensors = [
        zero_tensor if index in unchanged else Input(_total(index, leaf, zero_tensor, unchanged, len(zeros)))
        for index, (leaf, zero_tensor) in enumerate(zip(accumulated, zeros, strict=True))
    ]
    merged = recognise_merge(zero, merge, unchanged)
    for tensor, reduction in zip(tensors, merged, strict=True):
        if isinstance(tensor, Input) and isinstance(tensor.name, Total) and tensor.name.reduction != reduction:
            raise NotRecognised("its merge does something else than its accumulate")
    total = _filled_like(zero, iter(tensors))
    return total if report is None else _reported(report, total)


def _reported(report: Function, total: Value) -> Value:
    try:
        reported = report.call(total)
        for leaf in leaves(reported):
            if not isinstance(leaf, Input) and any(isinstance(name, Total) for name in inputs_of(leaf)):
                raise NotRecognised(f"its report computes something{_op_text(leaf)} instead of returning the totals")
    except NotUnderstood as error:
        raise NotRecognised(f"its report cannot be read: {error}") from None
    return reported


def recognise_merge(like: Value, merge: Function, unchanged: Collection[int] = ()) -> list[Reduction | None]:
    """Recognise a function that merges two values, tensor by tensor.

    Args:
        like: a value with the structs that it merges.
        merge: a function of two such values.
        unchanged: numbers of tensors that may be merged in any way: they are equal in both values.

    Returns:
        How each tensor is merged, in order; None for a tensor of ``unchanged`` that is merged in another way.

    Raises:
        NotRecognised: a tensor is merged in another way.
    """
    left, right = _inputs_like(like, "left"), _inputs_like(like, "right")
    merged = leaves(_call("merge", merge, Struct.of([left, right]), like))
    reductions: list[Reduction | None] = []
    for index, leaf in enumerate(merged):
        pair = {Input(("left", index)), Input(("right", index))}
        if isinstance(leaf, Combined) and len(leaf.terms) == 2 and set(leaf.terms) == pair and not leaf.checked:
            reductions.append(leaf.reduction)
        elif index in unchanged:
            reductions.append(None)
        else:
            raise NotRecognised(f"its merge {_described(leaf)}{_tensor_text(index, len(merged))}")
    return reductions


def _call(name: str, function: Function, argument: Value, like: Value) -> Value:
    """Return a function's result, which must have the structs of ``like``."""
    try:
        result = function.call(argument)
    except NotUnderstood as error:
        raise NotRecognised(f"its {name} cannot be read: {error}") from None
    if _layout(result) != _layout(like):
        raise NotRecognised(f"its {name} returns another structure than its zero has")
    return result


def _layout(value: Value) -> list[int]:
    """Return the numbers of elements of the structs in a value, in order; -1 for each tensor."""
    if not isinstance(value, Struct):
        return [-1]
    return [len(value.elements), *(number for element in value.elements for number in _layout(element))]


def _inputs_like(like: Value, name: str) -> Value:
    """Return the structs of ``like`` with inputs in place of the tensors, named by their number."""
    return _filled_like(like, (Input((name, index)) for index in range(len(leaves(like)))))


def _filled_like(like: Value, tensors: Iterator[Value]) -> Value:
    """Return the structs of ``like`` with these tensors."""
    if isinstance(like, Struct):
        return Struct.of([_filled_like(element, tensors) for element in like.elements])
    return next(tensors)


def _total(index: int, leaf: Value, zero_tensor: Value, unchanged: Collection[int], count: int) -> Total:
    """Return the total that a tensor of ``accumulate``'s result is.

    Raises:
        NotRecognised: it is not a total.
    """
    where = _tensor_text(index, count)
    accumulator = Input(("so far", index))
    if not isinstance(leaf, Combined) or accumulator not in leaf.terms:
        raise NotRecognised(f"its accumulate {_described(leaf)}{where}")
    added = list(leaf.terms)
    added.remove(accumulator)
    constants = {("so far", number) for number in unchanged}
    if not frozenset().union(*map(inputs_of, added)) <= {"client", *constants}:
        raise NotRecognised(f"its accumulate {_VERBS[leaf.reduction]} its total so far twice{where}")
    if not leaf.checked <= {"client", *constants}:
        raise NotRecognised(f"its accumulate may fail, depending on its total so far{where}")
    if not isinstance(zero_tensor, Known):
        raise NotRecognised(f"its zero is not a constant number{_op_text(zero_tensor)}{where}")
    zero = zero_tensor.constant
    if leaf.dtype != zero.dtype:
        raise NotRecognised(f"its accumulate is of another type than its zero{where}")
    if not _is_neutral(zero, leaf.reduction):
        raise NotRecognised(f"its zero is not the neutral element of a {leaf.reduction}{where}")
    if leaf.reduction == "sum" and not _is_exact(zero.dtype) and sum(map(_adds, added)) > 1:
        raise NotRecognised(f"its accumulate adds more than one floating-point number{where}")
    return Total(leaf.reduction, zero.dtype, zero.shape)


def _is_exact(dtype: int) -> bool:
    """Return whether addition of this dtype is associative."""
    return DTYPES[dtype].kind in "iu" and dtype != BFLOAT16


def _adds(term: Value) -> bool:
    return not (isinstance(term, Known) and term.constant.zero)


def _is_neutral(zero: Constant, reduction: Reduction) -> bool:
    if reduction == "sum":
        return zero.zero
    dtype = DTYPES[zero.dtype]
    if zero.fill is None or dtype.kind == "c":
        return False
    if zero.dtype == BFLOAT16:
        extremes = {"min": (b"\x7f\x7f", b"\x80\x7f"), "max": (b"\x7f\xff", b"\x80\xff")}[reduction]
        return zero.fill in extremes
    number = np.frombuffer(zero.fill, dtype)[0]
    if dtype.kind == "f":
        info = np.finfo(dtype)
        return bool(number in ((info.max, np.inf) if reduction == "min" else (info.min, -np.inf)))
    bounds = np.iinfo(dtype)
    return int(number) == (bounds.max if reduction == "min" else bounds.min)


def _described(leaf: Value) -> str:
    """Describe, for people, how a tensor is computed instead of by adding."""
    match leaf:
        case Computed("ConcatV2" | "Concat" | "Pack" | "StringJoin" as op):
            return f"joins values ({op}) instead of adding them"
        case Computed(op):
            return f"computes with {op} instead of adding"
        case Combined(reduction=reduction):
            return f"{_VERBS[reduction]} other values than it should"
        case Input():
            return "keeps or replaces values instead of adding them"
        case _:
            return "returns a constant instead of adding"


def _op_text(leaf: Value) -> str:
    return f" ({leaf.op})" if isinstance(leaf, Computed) else ""


def _tensor_text(index: int, count: int) -> str:
    return f" in its tensor {index + 1} of {count}" if count > 1 else ""
