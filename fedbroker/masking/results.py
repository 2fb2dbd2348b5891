"""Masked results: the shapes of masked tensors and their elements, as one blob.

Shapes travel in the clear: they may be known only when the silo has computed its values, and all silos' must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fedbroker.errors import MaskingError
from fedbroker.masking.decoding import SAME_VERSION, decoded
from fedbroker.masking.pairwise import Masked
from fedbroker.masking.rings import Elements, Ring
from fedbroker.wire.blobs import Buffer

__all__ = ["Shape", "add_packed", "masked_parts", "read_masked", "write_masked"]

Shape = Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=32)]
"""The sizes of a tensor's dimensions, as many as NumPy has at most."""

_MAX_ELEMENTS: Final = 1 << 60
"""More than fit into any memory. A tensor without elements also has to have a shape that NumPy can make."""

_LENGTH_BYTES: Final = 4

_PIECE: Final = 1 << 18
"""Elements that are unpacked at a time: they stay in the processor's cache, and no second vector is held."""


def write_masked(shapes: Sequence[Shape], values: Masked) -> bytes:
    """Return masked tensors as a blob: the length of a header, the header with all shapes, and the elements.

    Args:
        shapes: the shape of each tensor.
        values: the masked elements of each tensor.
    """
    header = msgspec.msgpack.encode(list(shapes))
    parts = [len(header).to_bytes(_LENGTH_BYTES, "big"), header]
    return b"".join([*parts, *[ring.pack(elements) for ring, elements in values]])


def read_masked(blob: Buffer, rings: Sequence[Ring]) -> tuple[tuple[Shape, ...], Masked]:
    """Return the shapes and the elements of masked tensors.

    Args:
        blob: as :func:`write_masked` returned it.
        rings: the ring of each tensor.

    Raises:
        MaskingError: the blob holds other tensors.
    """
    shapes, parts = masked_parts(blob, rings)
    return shapes, [(ring, ring.unpack(part)) for ring, part in zip(rings, parts, strict=True)]


def masked_parts(blob: Buffer, rings: Sequence[Ring]) -> tuple[tuple[Shape, ...], list[memoryview]]:
    """Return the shapes of masked tensors and the bytes of each one's elements, as views of the blob.

    Args:
        blob: as :func:`write_masked` returned it.
        rings: the ring of each tensor.

    Raises:
        MaskingError: the blob holds other tensors.
    """
    view = memoryview(blob).cast("B")
    length = int.from_bytes(view[:_LENGTH_BYTES], "big")
    start = _LENGTH_BYTES + length
    shapes = decoded(view[_LENGTH_BYTES:start], tuple[Shape, ...], "masked values")
    if len(shapes) != len(rings):
        raise MaskingError(f"{len(shapes)} masked tensors, and not {len(rings)}", hint=SAME_VERSION)
    if any(math.prod(filter(None, shape)) > _MAX_ELEMENTS for shape in shapes):
        raise MaskingError("masked values have a shape that no tensor can have", hint=SAME_VERSION)
    sizes = [math.prod(shape) * ring.width for shape, ring in zip(shapes, rings, strict=True)]
    if start + sum(sizes) != len(view):
        raise MaskingError("masked values have another size than their shapes say", hint=SAME_VERSION)
    parts: list[memoryview] = []
    for size in sizes:
        parts.append(view[start : start + size])
        start += size
    return shapes, parts


def add_packed(ring: Ring, total: Elements | None, packed: memoryview) -> None:
    """Add elements to a sum, in place, or only check them; piece by piece, so that no second vector is held.

    Args:
        ring: their ring.
        total: the sum; None to check the elements only.
        packed: the elements' bytes, as :func:`masked_parts` returned them.

    Raises:
        MaskingError: they are no elements of the ring; the sum may then be spoilt, unless they were checked before.
    """
    if total is None and not ring.modulus:
        return  # all bytes of the right number are elements
    step = _PIECE * ring.width
    for start in range(0, len(packed), step):
        piece = ring.unpack(packed[start : start + step])
        if total is not None:
            first = start // ring.width
            ring.add(total[first : first + piece.size], piece)
