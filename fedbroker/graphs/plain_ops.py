"""Rules for the ops of a graph of plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from fedbroker.graphs.expressions import NO_NAMES, Combined, Computed, Input, Known, Reduction, Value, inputs_of
from fedbroker.graphs.graphdef import Message
from fedbroker.graphs.tensors import BFLOAT16, DTYPES, Constant, read_constant, uniform

__all__ = ["PURE", "after_controls", "evaluate_op", "is_pure"]

MAX_TERMS: Final = 100
"""A bound on the terms of nested additions, which can double with each op."""

MAX_ELEMENTS: Final = 1 << 40
"""Elements of an inferred shape: shapes are compared, tensors of them are never allocated."""

_REDUCTIONS: Final[Mapping[str, Reduction]] = {
    "Add": "sum",
    "AddN": "sum",
    "AddV2": "sum",
    "Maximum": "max",
    "Minimum": "min",
}

_IDENTITIES: Final = frozenset({"EnsureShape", "Identity", "PreventGradient", "Snapshot", "StopGradient"})
"""Ops that return their first input."""

PURE: Final = frozenset(
    """
    Abs Add AddN All Any AddV2 Assert BitwiseAnd BitwiseOr BitwiseXor BroadcastTo Cast Ceil ClipByValue Concat
    ConcatV2 Const Cos DivNoNan EnsureShape Equal Exp ExpandDims Fill Floor FloorDiv FloorMod GatherV2
    Greater GreaterEqual Identity LeftShift Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr MatMul
    Max Maximum Mean Merge Min Minimum Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike Pack Pow
    PreventGradient Prod Range Rank RealDiv Reciprocal Relu Reshape RightShift Round Rsqrt Select SelectV2
    Shape Sigmoid Sign Sin Size Slice Snapshot Split Sqrt Square SquaredDifference Squeeze StopGradient
    StridedSlice Sub Sum Switch Tanh Tile Transpose ZerosLike
    """.split()  # noqa: SIM905  # a list of eighty words reads better so
)
"""Ops that are functions of their inputs, without a state and without an effect except failing."""


def evaluate_op(op: str, attrs: Mapping[bytes, Message], values: list[Value]) -> Value | None:
    """Return the output of a pure op, if more is known of it than the inputs that it depends on."""
    if op in _IDENTITIES and values:
        return values[0]
    if op in _REDUCTIONS and len(values) > 1 and b"T" in attrs:
        dtype = int(attrs[b"T"].type)
        if dtype not in DTYPES:
            return Computed(f"{op} of something else than numbers", NO_NAMES.union(*map(inputs_of, values)), pure=True)
        return _combine(_REDUCTIONS[op], dtype, values)
    if op == "Const" and b"value" in attrs and not values:
        constant = read_constant(attrs[b"value"].tensor)
        return None if constant is None else Known(constant)
    rule = _CONSTANT_RULES.get(op)
    if rule is None or not values or not all(isinstance(value, Known) for value in values):
        return None
    result = rule(attrs, *(value.constant for value in values if isinstance(value, Known)))
    return None if result is None else Known(result)


def after_controls(value: Value, controls: list[Value]) -> Value:
    """Return the value, computed only if the control inputs have not failed: that depends on their inputs."""
    inputs = NO_NAMES.union(*map(inputs_of, controls))
    if not inputs:
        return value
    if isinstance(value, Combined):
        return replace(value, inputs=value.inputs | inputs, checked=value.checked | inputs)
    return Computed("a check of other values", inputs_of(value) | inputs, pure=True)


def _combine(reduction: Reduction, dtype: int, values: list[Value]) -> Value:
    """Combine tensors regardless of how they are nested: TensorFlow's optimizer changes the nesting."""
    terms: list[Input | Known | Computed] = []
    checked = NO_NAMES
    for value in values:
        checked |= value.checked if isinstance(value, Combined) else NO_NAMES
        if isinstance(value, Combined) and (value.reduction, value.dtype) == (reduction, dtype):
            terms += value.terms
        elif isinstance(value, Combined):
            terms.append(Computed(value.reduction, value.inputs, value.pure))
        else:
            assert isinstance(value, Input | Known | Computed)
            terms.append(value)
    inputs = NO_NAMES.union(*map(inputs_of, values))
    if len(terms) > MAX_TERMS:
        return Computed("too many additions", inputs, pure=True)
    return Combined(reduction, dtype, tuple(terms), inputs, checked)


def is_pure(value: Value) -> bool:
    """Return whether a tensor is a function of inputs and constants alone."""
    return value.pure if isinstance(value, Computed | Combined) else True


def _shape_of(constant: Constant) -> tuple[int, ...] | None:
    """Return the shape that a constant describes."""
    values = constant.values
    if values is None or len(constant.shape) != 1 or constant.shape[0] != len(values) or min(values, default=0) < 0:
        return None
    return values if math.prod(values) <= MAX_ELEMENTS else None


def _fill(_: Mapping[bytes, Message], dims: Constant, value: Constant) -> Constant | None:
    shape = _shape_of(dims)
    return None if shape is None or value.shape != () else uniform(value.dtype, shape, value.fill)


def _broadcast(_: Mapping[bytes, Message], value: Constant, dims: Constant) -> Constant | None:
    shape = _shape_of(dims)
    return None if shape is None else uniform(value.dtype, shape, value.fill)


def _reshape(_: Mapping[bytes, Message], value: Constant, dims: Constant) -> Constant | None:
    shape = _shape_of(dims)
    return (
        None if shape is None or math.prod(shape) != math.prod(value.shape) else uniform(value.dtype, shape, value.fill)
    )


def _zeros_like(_: Mapping[bytes, Message], value: Constant) -> Constant:
    return uniform(value.dtype, value.shape, bytes(DTYPES[value.dtype].itemsize))


def _cast(attrs: Mapping[bytes, Message], value: Constant) -> Constant | None:
    if b"DstT" not in attrs or attrs[b"DstT"].type not in DTYPES:
        return None
    target = int(attrs[b"DstT"].type)
    if value.zero:
        return uniform(target, value.shape, bytes(DTYPES[target].itemsize))
    if (
        value.fill is None
        or BFLOAT16 in (target, value.dtype)
        or DTYPES[target].kind == "c"
        or DTYPES[value.dtype].kind == "c"
    ):
        return None
    number = np.frombuffer(value.fill, DTYPES[value.dtype])
    # NumPy and TensorFlow agree on the result only if both types can represent the number.
    with np.errstate(all="ignore"):
        converted = number.astype(DTYPES[target])
        exact = bool((converted.astype(DTYPES[value.dtype]) == number).all())
    return uniform(target, value.shape, converted.tobytes()) if exact else None


_CONSTANT_RULES: Final[Mapping[str, Callable[..., Constant | None]]] = {
    "BroadcastTo": _broadcast,
    "Cast": _cast,
    "Fill": _fill,
    "Reshape": _reshape,
    "ZerosLike": _zeros_like,
}
"""Ops of constants that return constants."""
