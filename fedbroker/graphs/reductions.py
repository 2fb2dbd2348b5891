"""Recognise aggregates that are sums, minima or maxima over clients, from their functions, never from a name.

An aggregate over clients has a zero, from which each silo starts, ``accumulate(so_far, value)``, ``merge(one, other)``
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


_DOES: Final = {"sum": "adds", "min": "takes the smaller of", "max": "takes the larger of"}


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
    starts = leaves(zero)
    so_far = _named(zero, "so far")
    grown = leaves(_called("accumulate", accumulate, Struct.of([so_far, Input("client", whole=True)]), zero))
    kept = frozenset(at for at, leaf in enumerate(grown) if leaf == Input(("so far", at)))
    found = [
        start if at in kept else Input(_total(at, leaf, start, kept, len(starts)))
        for at, (leaf, start) in enumerate(zip(grown, starts, strict=True))
    ]
    merged = recognise_merge(zero, merge, kept)
    for one, reduction in zip(found, merged, strict=True):
        if isinstance(one, Input) and isinstance(one.name, Total) and one.name.reduction != reduction:
            raise NotRecognised("its merge does something else than its accumulate")
    whole = _renamed(zero, iter(found))
    return whole if report is None else _reported(report, whole)


def _reported(report: Function, whole: Value) -> Value:
    try:
        reported = report.call(whole)
        for leaf in leaves(reported):
            if not isinstance(leaf, Input) and any(isinstance(name, Total) for name in inputs_of(leaf)):
                raise NotRecognised(f"its report computes something{_with(leaf)} instead of returning the totals")
    except NotUnderstood as error:
        raise NotRecognised(f"its report cannot be read: {error}") from None
    return reported


def recognise_merge(like: Value, merge: Function, kept: Collection[int] = ()) -> list[Reduction | None]:
    """Recognise a function that merges two values, tensor by tensor.

    Args:
        like: a value with the structs that it merges.
        merge: a function of two such values.
        kept: numbers of tensors that may be merged in any way: they are equal in both values.

    Returns:
        How each tensor is merged, in order; None for a tensor of ``kept`` that is merged in another way.

    Raises:
        NotRecognised: a tensor is merged in another way.
    """
    one, other = _named(like, "one"), _named(like, "other")
    merged = leaves(_called("merge", merge, Struct.of([one, other]), like))
    found: list[Reduction | None] = []
    for at, leaf in enumerate(merged):
        pair = {Input(("one", at)), Input(("other", at))}
        if isinstance(leaf, Combined) and len(leaf.terms) == 2 and set(leaf.terms) == pair and not leaf.checked:
            found.append(leaf.reduction)
        elif at in kept:
            found.append(None)
        else:
            raise NotRecognised(f"its merge {_does(leaf)}{_where(at, len(merged))}")
    return found


def _called(name: str, function: Function, argument: Value, like: Value) -> Value:
    """Return a function's result, which must have the structs of ``like``."""
    try:
        made = function.call(argument)
    except NotUnderstood as error:
        raise NotRecognised(f"its {name} cannot be read: {error}") from None
    if _layout(made) != _layout(like):
        raise NotRecognised(f"its {name} returns another structure than its zero has")
    return made


def _layout(value: Value) -> list[int]:
    """Return the numbers of elements of the structs in a value, in order; -1 for each tensor."""
    if not isinstance(value, Struct):
        return [-1]
    return [len(value.elements), *(number for element in value.elements for number in _layout(element))]


def _named(like: Value, name: str) -> Value:
    """Return the structs of ``like`` with inputs in place of the tensors, named by their number."""
    return _renamed(like, (Input((name, at)) for at in range(len(leaves(like)))))


def _renamed(like: Value, tensors: Iterator[Value]) -> Value:
    """Return the structs of ``like`` with these tensors."""
    if isinstance(like, Struct):
        return Struct.of([_renamed(element, tensors) for element in like.elements])
    return next(tensors)


def _total(at: int, leaf: Value, start: Value, kept: Collection[int], count: int) -> Total:
    """Return the total that a tensor of ``accumulate``'s result is.

    Raises:
        NotRecognised: it is not a total.
    """
    where = _where(at, count)
    so_far = Input(("so far", at))
    if not isinstance(leaf, Combined) or so_far not in leaf.terms:
        raise NotRecognised(f"its accumulate {_does(leaf)}{where}")
    added = list(leaf.terms)
    added.remove(so_far)
    constants = {("so far", one) for one in kept}
    if not frozenset().union(*map(inputs_of, added)) <= {"client", *constants}:
        raise NotRecognised(f"its accumulate {_DOES[leaf.reduction]} what it has so far twice{where}")
    if not leaf.checked <= {"client", *constants}:
        raise NotRecognised(f"its accumulate looks at what it has so far{where}")
    if not isinstance(start, Known):
        raise NotRecognised(f"its zero is no constant number{_with(start)}{where}")
    zero = start.constant
    if leaf.dtype != zero.dtype:
        raise NotRecognised(f"its accumulate is of another type than its zero{where}")
    if not _changes_nothing(zero, leaf.reduction):
        raise NotRecognised(f"its zero is not what leaves a {leaf.reduction} as it is{where}")
    if leaf.reduction == "sum" and not _is_exact(zero.dtype) and sum(map(_adds, added)) > 1:
        raise NotRecognised(f"its accumulate adds more than one floating-point number{where}")
    return Total(leaf.reduction, zero.dtype, zero.shape)


def _is_exact(dtype: int) -> bool:
    """Return whether addition of this dtype is associative."""
    return DTYPES[dtype].kind in "iu" and dtype != BFLOAT16


def _adds(term: Value) -> bool:
    return not (isinstance(term, Known) and term.constant.zero)


def _changes_nothing(zero: Constant, reduction: Reduction) -> bool:
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


def _does(leaf: Value) -> str:
    """Describe, for people, how a tensor is computed instead of by adding."""
    match leaf:
        case Computed("ConcatV2" | "Concat" | "Pack" | "StringJoin" as op):
            return f"joins values ({op}) instead of adding them"
        case Computed(op):
            return f"computes with {op} instead of adding"
        case Combined(reduction=reduction):
            return f"{_DOES[reduction]} other values than it should"
        case Input():
            return "keeps or replaces values instead of adding them"
        case _:
            return "returns a constant instead of adding"


def _with(leaf: Value) -> str:
    return f" ({leaf.op})" if isinstance(leaf, Computed) else ""


def _where(at: int, count: int) -> str:
    return f" in its tensor {at + 1} of {count}" if count > 1 else ""
