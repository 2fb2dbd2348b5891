"""The values of masked sums on the coordinator's side: their rings and their totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow_federated as tff

from fedbroker.context.values.codec import filled, read, serialize
from fedbroker.errors import UsageError, WireError
from fedbroker.masking.pairwise import Masked
from fedbroker.masking.results import Shape
from fedbroker.masking.rings import Ring, ring_of
from fedbroker.plan.blocks import element_types, untyped
from fedbroker.plan.model import MaskedSum, MaskedTensor
from fedbroker.plan.secure_partials import tensors_of
from fedbroker.wire.blobs import Buffer

__all__ = ["check_shapes", "read_total", "read_totals", "rings_of"]


def rings_of(sum_: MaskedSum, clients: int, values: Mapping[str, Buffer]) -> tuple[Ring, ...]:
    """Return the ring of each tensor of a masked sum, left to right.

    Where the program states a bound on one client's values, the ring is the narrowest that holds the sum of so many
    clients and its sign. Silos refuse values below minus that bound, which the plaintext sum accepts. Otherwise the
    ring is as wide as the dtype: the masked sum wraps around where the plaintext one does.

    Args:
        sum_: the masked sum.
        clients: the number of clients of all silos together.
        values: serialized values of the server's slots, by name; those that the silos are sent.

    Raises:
        UsageError: a modulus that the program computes is not between 1 and the largest value of its dtype.
    """
    if sum_.moduli is None:
        return tuple(_ring(tensor, tensor.modulus, clients) for tensor in sum_.tensors)
    found = read(values[sum_.moduli.name], sum_.moduli.type)
    moduli = _each(found, sum_.total.type)
    return tuple(_ring(tensor, modulus, clients) for tensor, modulus in zip(sum_.tensors, moduli, strict=True))


def _ring(tensor: MaskedTensor, modulus: int | None, clients: int) -> Ring:
    dtype: np.dtype[Any] = np.dtype(tensor.dtype)
    if modulus is not None:
        largest = int(np.iinfo(dtype).max)
        if not 0 < modulus <= largest:
            raise UsageError(
                f"the modulus of a secure modular sum of {tensor.dtype} is {modulus}",
                hint=f"use a modulus from 1 to {largest}, or values of a wider dtype",
            )
        return ring_of(dtype, modulus)
    return Ring(tensor.width(clients))


def _each(value: object, type_: tff.Type) -> Iterator[int]:
    """Yield the number for each tensor of a type, left to right; a single one is for all of a struct."""
    if isinstance(type_, tff.StructType):
        for index, (_, part) in enumerate(element_types(type_)):
            yield from _each(untyped(value)[index] if isinstance(value, tff.structure.Struct) else value, part)
    else:
        yield int(np.asarray(value).reshape(-1)[0])


def read_totals(sums: Sequence[MaskedSum], shapes: Sequence[Shape], total: Masked) -> dict[str, Buffer]:
    """Return the totals of a stage's masked sums as the server stage takes them.

    Args:
        sums: the masked sums, in the order of the client stage's masked outputs.
        shapes: the shape of each of their tensors.
        total: the sum over the silos, without masks.

    Returns:
        Serialized values by slot name.

    Raises:
        WireError: the tensors are not of the sums' types.
    """
    count = sum(len(one.tensors) for one in sums)
    if not len(shapes) == len(total) == count:
        raise WireError(f"{len(total)} masked tensors, and not {count}", hint=_SAME_VERSION)
    values: dict[str, Buffer] = {}
    start = 0
    for one in sums:
        part = slice(start, start := start + len(one.tensors))
        arrays = [
            ring.values(elements, np.dtype(tensor.dtype))
            for (ring, elements), tensor in zip(total[part], one.tensors, strict=True)
        ]
        values[one.total.name] = read_total(one, shapes[part], arrays)
    return values


def read_total(sum_: MaskedSum, shapes: Sequence[Shape], arrays: Sequence[np.ndarray[Any, Any]]) -> Buffer:
    """Return the total of a masked sum as a serialized value of its type.

    Args:
        sum_: the masked sum.
        shapes: the shape of each tensor.
        arrays: the elements of each tensor, of its dtype, in one dimension.

    Raises:
        WireError: the tensors are not of the sum's type.
    """
    if not len(shapes) == len(arrays) == len(sum_.tensors):
        raise WireError(f"a masked sum of {len(arrays)} tensors, and not {len(sum_.tensors)}", hint=_SAME_VERSION)
    tensors = zip(tensors_of(sum_.total.type), shapes, arrays, strict=True)
    return serialize(filled(sum_.total.type, (_shaped(*tensor) for tensor in tensors)), sum_.total.type)


def _shaped(type_: tff.TensorType, shape: Shape, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a tensor's elements in its shape."""
    _check_shape(type_, shape)
    if array.size != int(np.prod(shape, dtype=object)) or array.dtype != type_.dtype:
        raise WireError(f"a masked tensor of the shape {list(shape)} is not of the type {type_}", hint=_SAME_SHAPE)
    return array.reshape(shape)


def check_shapes(sums: Sequence[MaskedSum], shapes: Sequence[Shape]) -> None:
    """Check that a silo's masked tensors are of the shapes of a stage's masked sums.

    Args:
        sums: the masked sums, in the order of the client stage's masked outputs.
        shapes: the shape of each of their tensors.

    Raises:
        WireError: they are not.
    """
    types = [type_ for one in sums for type_ in tensors_of(one.total.type)]
    if len(types) != len(shapes):
        raise WireError(f"{len(shapes)} masked tensors, and not {len(types)}", hint=_SAME_VERSION)
    for type_, shape in zip(types, shapes, strict=True):
        _check_shape(type_, shape)


def _check_shape(type_: tff.TensorType, shape: Shape) -> None:
    expected = type_.shape
    fits = expected is None or (
        len(expected) == len(shape) and all(size in (None, found) for size, found in zip(expected, shape, strict=True))
    )
    if not fits:
        raise WireError(f"a masked tensor of the shape {list(shape)} is not of the type {type_}", hint=_SAME_SHAPE)


_SAME_VERSION: Final = "use the same version at both ends"
_SAME_SHAPE: Final = "sum values that have the same shape at every silo, and at least one client at each"
