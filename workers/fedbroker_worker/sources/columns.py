"""Columns as a serialized executor value, ``<c0,c1,…>@CLIENTS``, written without TensorFlow and with one copy.

TFF's own Python serializes through lists of Python objects and nested messages, and each level copies the data again.
Here only the small parts are messages, and the arrays' bytes are framed by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fedbroker.runtime.protos import array_pb2, computation_pb2, data_type_pb2
from fedbroker.runtime.values import Buffer, framed, struct
from fedbroker_worker.errors import ColumnError, Problem, SourceError
from fedbroker_worker.sources.column_types import BFLOAT16, TEXT, cast_to

if TYPE_CHECKING:
    from fedbroker_worker.sources.protocol import Columns

__all__ = ["ColumnType", "clients_value", "member_value"]

Array = npt.NDArray[Any]
Parts: TypeAlias = list[Buffer]

CLIENTS: Final = "clients"

# Field numbers of executor_pb2.Value and of the messages in it that carry the bulk of the bytes.
_VALUE_FEDERATED: Final = 5
_VALUE_ARRAY: Final = 6
_FEDERATED_TYPE: Final = 1
_FEDERATED_VALUE: Final = 2
_ARRAY_CONTENT: Final = 18

# TFF's names of dtypes; the others are `DT_` and the upper-case name of numpy.
_KINDS: Final = {
    "float16": "DT_HALF",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    TEXT: "DT_STRING",
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type in which a column is given to the runtime.

    Attributes:
        name: its name in the source.
        dtype: one of :data:`~fedbroker_worker.sources.column_types.DTYPES`.
        shape: the shape of one row; None stands for a length that varies.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def member_value(
    source: str, types: Sequence[ColumnType], columns: Columns, *, scalar: bool, client: str = ""
) -> Parts:
    """Return one client's struct of arrays, as the pieces of a serialized value.

    Args:
        source: the source's name, for errors.
        types: one for each element of the struct.
        columns: the arrays by name, from one read.
        scalar: each column has one row, and is passed without its first dimension.
        client: the client, such as ``client 2 of 3``, for errors; empty if the source has only one.

    Raises:
        ColumnError: columns do not convert; names all of them.
        SourceError: ``scalar`` is set, and the client does not have exactly one row.
    """
    elements: list[tuple[str | None, Parts]] = []
    errors: list[ColumnError] = []
    for type_ in types:
        try:
            values = _of_rows(source, type_, columns[type_.name])
            values = cast_to(type_.dtype, values, source=source, column=type_.name)
        except ColumnError as error:
            errors.append(error)
            continue
        if scalar:
            if len(values) != 1:
                what = f"{client} has {len(values)} rows where the computation takes one".lstrip()
                hint = "aggregate in the query, or declare columns in the computation"
                raise SourceError(source, what, hint=hint, problem=Problem.NOT_ONE_ROW)
            values = values[0:1].reshape(values.shape[1:])
        elements.append((None, framed(_VALUE_ARRAY, _array(values, type_.dtype))))
    if errors:
        raise ColumnError.joined(errors)
    return struct(elements)


def _of_rows(source: str, type_: ColumnType, values: Array) -> Array:
    """Return the rows of one client, or an empty array of the requested type: no rows fit any type."""
    if not len(values):
        dtype = {TEXT: "object", BFLOAT16: "float32"}.get(type_.dtype, type_.dtype)
        return np.empty((0, *(size or 0 for size in type_.shape)), dtype)
    sizes = zip(values.shape[1:], type_.shape, strict=False)
    if len(values.shape) != 1 + len(type_.shape) or any(size not in (None, found) for found, size in sizes):
        what, hint = "has rows of another shape than the silo announced", "start the silo again"
        raise ColumnError(source, type_.name, what, hint=hint, problem=Problem.CHANGED)
    return values


def clients_value(types: Sequence[ColumnType], members: Sequence[Parts], *, scalar: bool) -> bytes:
    """Return the clients-placed value of these members: a serialized ``executor_pb2.Value``."""
    parts = framed(_FEDERATED_TYPE, [_federated_type(types, scalar)])
    for member in members:
        parts += framed(_FEDERATED_VALUE, member)
    return b"".join(framed(_VALUE_FEDERATED, parts))


def _federated_type(types: Sequence[ColumnType], scalar: bool) -> bytes:
    """Return a serialized ``computation_pb2.FederatedType``."""
    rows = () if scalar else (-1,)
    elements = [
        computation_pb2.StructType.Element(
            value=computation_pb2.Type(
                tensor=computation_pb2.TensorType(
                    dtype=_data_type(type_.dtype),
                    dims=(*rows, *(-1 if size is None else size for size in type_.shape)),
                )
            )
        )
        for type_ in types
    ]
    type_ = computation_pb2.FederatedType(
        member=computation_pb2.Type(struct=computation_pb2.StructType(element=elements)),
        placement=computation_pb2.PlacementSpec(value=computation_pb2.Placement(uri=CLIENTS)),
    )
    return bytes(type_.SerializeToString())


def _array(values: Array, dtype: str) -> Parts:
    """Return a serialized ``array_pb2.Array``: scalars and text as lists, as in TensorFlow, the rest as plain bytes."""
    message = array_pb2.Array(dtype=_data_type(dtype), shape=array_pb2.ArrayShape(dim=values.shape))
    if dtype == TEXT:
        message.string_list.value.extend(values.ravel().tolist())
    elif values.shape == ():
        getattr(message, f"{dtype}_list").value.extend(_scalar(values, dtype))
    else:
        return [message.SerializeToString(), *framed(_ARRAY_CONTENT, [_bytes(values)])]
    return [message.SerializeToString()]


def _scalar(values: Array, dtype: str) -> list[object]:
    if dtype in ("float16", BFLOAT16):
        return [values.view(np.uint16).item()]
    return [values.real.item(), values.imag.item()] if values.dtype.kind == "c" else [values.item()]


def _bytes(values: Array) -> memoryview:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view(np.uint8).data


def _data_type(dtype: str) -> int:
    return int(data_type_pb2.DataType.Value(_KINDS.get(dtype) or f"DT_{dtype.upper()}"))
