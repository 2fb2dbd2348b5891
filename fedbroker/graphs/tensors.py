"""Types and constants in graphs and in computations, read without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedbroker.graphs.graphdef import Message

__all__ = [
    "BFLOAT16",
    "DTYPES",
    "Constant",
    "dtype_name",
    "fixed_shapes",
    "read_array",
    "read_constant",
    "type_text",
    "uniform",
]

BFLOAT16: Final = 14  # DT_BFLOAT16
HALF: Final = 19  # DT_HALF

DTYPES: Final[Mapping[int, np.dtype[Any]]] = {
    1: np.dtype("float32"),
    2: np.dtype("float64"),
    3: np.dtype("int32"),
    4: np.dtype("uint8"),
    5: np.dtype("int16"),
    6: np.dtype("int8"),
    8: np.dtype("complex64"),
    9: np.dtype("int64"),
    BFLOAT16: np.dtype("uint16"),  # NumPy has no bfloat16: its bits
    17: np.dtype("uint16"),
    18: np.dtype("complex128"),
    HALF: np.dtype("float16"),
    22: np.dtype("uint32"),
    23: np.dtype("uint64"),
}
"""TensorFlow's numeric types, by their numbers in its ``types.proto``, which are those of TFF's ``DataType``, too."""

_TENSOR_FIELDS: Final[Mapping[int, str]] = {
    1: "float_val",
    2: "double_val",
    3: "int_val",
    4: "int_val",
    5: "int_val",
    6: "int_val",
    8: "scomplex_val",
    9: "int64_val",
    BFLOAT16: "half_val",
    17: "int_val",
    18: "dcomplex_val",
    HALF: "half_val",
    22: "uint32_val",
    23: "uint64_val",
}
"""The field of ``TensorProto`` that holds the numbers of a type."""

MAX_DIMENSIONS: Final = 254
"""TensorFlow's own limit."""
MAX_LISTED: Final = 16
"""A constant of at most this many elements keeps each of them: it may be a shape."""

MAX_TYPE_LENGTH: Final = 120
"""Characters of a type in a message: it is part of a one-line error."""

MAX_TYPE_DEPTH: Final = 20
"""The deepest nesting of a type that is read."""

_OTHER_DTYPES: Final = {7: "string", 10: "bool"}  # DT_STRING, DT_BOOL


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor whose elements are all equal, or any small tensor.

    Attributes:
        dtype: TensorFlow's number of the type.
        shape: its dimensions.
        fill: the bytes of the number that all elements equal; None if elements differ.
        values: each element in order, for a small tensor of integers; else None.
    """

    dtype: int
    shape: tuple[int, ...]
    fill: bytes | None
    values: tuple[int, ...] | None = None

    @property
    def zero(self) -> bool:
        """Return whether each element is a positive zero."""
        return self.fill is not None and not any(self.fill)


def uniform(dtype: int, shape: tuple[int, ...], fill: bytes | None) -> Constant:
    """Return a tensor of that shape whose elements are all ``fill``."""
    return Constant(dtype, shape, fill)


def dtype_name(dtype: int) -> str:
    """Return the name of a numeric type, for people."""
    return "bfloat16" if dtype == BFLOAT16 else str(DTYPES[dtype])


def read_constant(tensor: Message) -> Constant | None:
    """Return the content of a ``TensorProto``; None if it is malformed or no numeric tensor of a known shape."""
    dtype = DTYPES.get(tensor.dtype)
    dimensions = [dimension.size for dimension in tensor.tensor_shape.dim]
    if (
        dtype is None
        or tensor.tensor_shape.unknown_rank
        or len(dimensions) > MAX_DIMENSIONS
        or min(dimensions, default=0) < 0
    ):
        return None
    elements = math.prod(dimensions)
    numbers = _tensor_numbers(tensor, dtype, elements)
    if numbers is None:
        return None
    shape = tuple(dimensions)
    fill = _fill(numbers, dtype)
    small = elements <= MAX_LISTED and dtype.kind in "iu"
    return Constant(int(tensor.dtype), shape, fill, _values(numbers, elements) if small else None)


_ARRAY_FIELDS: Final[Mapping[int, str]] = {
    number: f"{'bfloat16' if number == BFLOAT16 else dtype}_list" for number, dtype in DTYPES.items()
}


def read_array(array: Message) -> Constant | None:
    """Return the content of TFF's ``Array``; None if it is malformed or no numeric tensor."""
    dtype = DTYPES.get(array.dtype)
    shape = tuple(array.shape.dim)
    if dtype is None or array.shape.unknown_rank or len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
        return None
    numbers = _array_numbers(array, dtype)
    elements = math.prod(shape)
    if numbers is None or len(numbers) != elements:
        return None
    small = elements <= MAX_LISTED and dtype.kind in "iu"
    return Constant(int(array.dtype), shape, _fill(numbers, dtype), _values(numbers, elements) if small else None)


def _array_numbers(array: Message, dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the numbers of an array."""
    if array.content:
        return np.frombuffer(array.content, dtype) if len(array.content) % dtype.itemsize == 0 else None
    return _as_dtype(getattr(array, _ARRAY_FIELDS[array.dtype]).value, dtype, bits=array.dtype in (BFLOAT16, HALF))


def _as_dtype(numbers: Sequence[Any], dtype: np.dtype[Any], *, bits: bool) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Convert numbers from protobuf (complex numbers in pairs, halves as bits); None if they do not fit the type."""
    if dtype.kind == "c":
        pairs = np.array(numbers, np.float32 if dtype.itemsize == 8 else np.float64)
        return pairs.view(dtype) if len(pairs) % 2 == 0 else None
    if bits:
        return np.array([number & 0xFFFF for number in numbers], np.uint16).view(dtype)
    info = None if dtype.kind == "f" else np.iinfo(dtype)
    fits = info is None or all(info.min <= number <= info.max for number in numbers)
    return np.array(numbers, dtype) if fits else None


def _tensor_numbers(tensor: Message, dtype: np.dtype[Any], elements: int) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the encoded numbers: all elements, or the first ones, of which the last is repeated to the end."""
    if tensor.tensor_content:
        complete = len(tensor.tensor_content) == elements * dtype.itemsize
        return np.frombuffer(tensor.tensor_content, dtype) if complete else None
    numbers = _as_dtype(
        getattr(tensor, _TENSOR_FIELDS[tensor.dtype]), dtype, bits=_TENSOR_FIELDS[tensor.dtype] == "half_val"
    )
    if numbers is None or len(numbers) > elements:
        return None
    return numbers if len(numbers) else np.zeros(1, dtype)


def _fill(numbers: np.ndarray[Any, np.dtype[Any]], dtype: np.dtype[Any]) -> bytes | None:
    if not len(numbers):
        return bytes(dtype.itemsize)
    bits = np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), dtype.itemsize)
    return bits[0].tobytes() if bool((bits == bits[0]).all()) else None


def _values(numbers: np.ndarray[Any, np.dtype[Any]], elements: int) -> tuple[int, ...]:
    values = [int(number) for number in numbers[:elements]]
    return tuple(values + values[-1:] * (elements - len(values)))


def fixed_shapes(type_: Message, depth: int = 0) -> tuple[tuple[int, ...], ...] | None:
    """Return the shape of each tensor of a type, left to right; None if the type leaves any of them open."""
    kind = type_.WhichOneof("type") if depth < MAX_TYPE_DEPTH else None
    if kind == "tensor":
        dims = tuple(type_.tensor.dims)
        return None if type_.tensor.unknown_rank or any(dim < 0 for dim in dims) else (dims,)
    if kind != "struct":
        return None
    shapes: list[tuple[int, ...]] = []
    for element in type_.struct.element:
        inner = fixed_shapes(element.value, depth + 1)
        if inner is None:
            return None
        shapes += inner
    return tuple(shapes)


def type_text(type_: Message) -> str:
    """Return a type as TFF writes it, in one short printable line; for messages to people, not for decisions."""
    text = _type_text(type_, 0)
    return text if len(text) <= MAX_TYPE_LENGTH else f"{text[: MAX_TYPE_LENGTH - 1]}…"


def _type_text(type_: Message, depth: int) -> str:
    match type_.WhichOneof("type") if depth < MAX_TYPE_DEPTH else None:
        case "tensor":
            dtype = type_.tensor.dtype
            name = dtype_name(dtype) if dtype in DTYPES else _OTHER_DTYPES.get(dtype, "?")
            dims = ",".join("?" if dim < 0 else str(dim) for dim in type_.tensor.dims[:10])
            return f"{name}(unknown rank)" if type_.tensor.unknown_rank else name + (f"[{dims}]" if dims else "")
        case "struct":
            elements = type_.struct.element[:MAX_TYPE_LENGTH]
            texts = [_element_name(element.name) + _type_text(element.value, depth + 1) for element in elements]
            return f"<{','.join(texts)}>"
        case "sequence":
            return f"{_type_text(type_.sequence.element, depth + 1)}*"
        case "function":
            of = type_.function
            parameter = _type_text(of.parameter, depth + 1) if of.HasField("parameter") else ""
            return f"({parameter} -> {_type_text(of.result, depth + 1)})"
        case "federated":
            member = _type_text(type_.federated.member, depth + 1)
            member = f"{{{member}}}" if not type_.federated.all_equal else member
            return f"{member}@{type_.federated.placement.value.uri[:20].upper()}"
        case _:
            return "?"


def _element_name(name: str) -> str:
    return f"{name[:40]}=" if name.isascii() and name.isidentifier() else ""
