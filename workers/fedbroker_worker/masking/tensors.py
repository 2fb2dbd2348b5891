"""The integer tensors of a partial that is to be masked, read from a serialized executor value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from fedbroker.errors import MaskingError
from fedbroker.graphs import Unreadable
from fedbroker.runtime.protos import array_pb2, data_type_pb2
from fedbroker.runtime.values import ARRAY_CONTENT, fields, prefix
from fedbroker_worker.errors import WorkRefused
from fedbroker_worker.policy.values import SERVER, Layout, layout

if TYPE_CHECKING:
    import numpy.typing as npt

    from fedbroker.masking.rings import Elements, Ring
    from fedbroker.wire.blobs import Buffer

__all__ = ["elements_of", "tensors_of"]

_BITS: Final = 8

_DTYPES: Final = {
    int(data_type_pb2.DataType.Value(f"DT_{kind.upper()}{bits}")): np.dtype(f"<{kind[0]}{bits // _BITS}")
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
}
"""NumPy's dtype for each integer dtype of TFF."""


def tensors_of(partial: Buffer) -> list[npt.NDArray[np.integer[Any]]]:
    """Return the tensors of a partial, left to right; large ones are views of it.

    Args:
        partial: a serialized value at the server: a tensor, or a struct of tensors, which may be empty.

    Raises:
        MaskingError: it is not placed at the server, or holds something else than integers.
    """
    try:
        found = layout(partial)
        if found.kind != SERVER:
            raise MaskingError("a value to be masked is not an aggregate", hint=_OUTPUTS)
        return [_array(leaf) for leaf in _leaves(found.elements[0])]
    except (Unreadable, DecodeError, ValueError):
        raise MaskingError("a value to be masked cannot be read", hint=_OUTPUTS) from None


def elements_of(ring: Ring, tensor: npt.NDArray[np.integer[Any]]) -> Elements:
    """Return a copy of a tensor as elements of a ring.

    Args:
        ring: the ring.
        tensor: integers of any shape.

    Raises:
        MaskingError: the ring is wider than the tensor's dtype.
        WorkRefused: a value is outside of the range that the ring can tell apart.
    """
    size = tensor.dtype.itemsize
    if not ring.modulus and ring.width > size:
        raise MaskingError(
            f"a masked sum of {tensor.dtype} with {ring.width} bytes for each number", hint="it is not well-formed"
        )
    if not ring.modulus and ring.width < size and tensor.size:
        bits = _BITS * ring.width
        low, high = (0, (1 << bits) - 1) if tensor.dtype.kind == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
        if int(tensor.min()) < low or int(tensor.max()) > high:
            raise WorkRefused(
                "a value to be summed is outside of the range that the program states",
                hint="clip the clients' values, or raise the bound of the secure sum",
                by_data=True,
            )
    return ring.elements(tensor)


def _leaves(value: Layout) -> list[Layout]:
    if value.kind == "struct":
        return [leaf for element in value.elements for leaf in _leaves(element)]
    if value.kind != "array":
        raise MaskingError("a value to be masked holds something else than tensors", hint=_OUTPUTS)
    return [value]


def _array(found: Layout) -> npt.NDArray[np.integer[Any]]:
    message = found.content
    contents = [content for number, content in fields(message) if number == ARRAY_CONTENT]
    # The content comes last: fields are in the order of their numbers, and its number is the largest.
    framed = sum(len(prefix(ARRAY_CONTENT, len(content))) + len(content) for content in contents[-1:])
    head = array_pb2.Array.FromString(bytes(message[: len(message) - framed]))
    dtype = _DTYPES.get(head.dtype)
    if dtype is None:
        name = data_type_pb2.DataType.Name(head.dtype).removeprefix("DT_").lower()
        raise MaskingError(f"values of dtype {name} cannot be masked", hint=_INTEGERS)
    if len(contents) > 1 or head.content or head.shape.unknown_rank:
        raise MaskingError("a value to be masked cannot be read", hint=_OUTPUTS)
    shape = tuple(head.shape.dim)
    if contents and contents[0]:
        return np.frombuffer(contents[0], dtype).reshape(shape)
    numbers = getattr(head, f"{dtype.name}_list").value
    if len(numbers) != math.prod(shape):
        raise MaskingError("a value to be masked has another number of elements than its shape", hint=_OUTPUTS)
    wide = np.array(numbers, np.uint64 if dtype.kind == "u" else np.int64)
    if np.any(wide != wide.astype(dtype)):
        raise MaskingError("a value to be masked holds a number beyond its dtype", hint=_OUTPUTS)
    return wide.astype(dtype).reshape(shape)


_INTEGERS: Final = "sum integers, or use an aggregator that quantizes, such as tff.learning.secure_aggregator"
_OUTPUTS: Final = "use the same version of fedbroker at both ends"
