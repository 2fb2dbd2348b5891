"""Rings: the finite sets in which masked values are added, element by element.

A sum is masked in the ring in which it is computed anyway: integers of w bytes wrap around at 2^(8·w), and modular sums
are taken modulo m. So a masked sum has the same bits as an open one, overflow included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from fedbroker.errors import MaskingError
from fedbroker.masking.decoding import SAME_VERSION

__all__ = ["Elements", "Ring", "ring_of"]

Elements: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Elements of a ring: one dimension, of the ring's ``carrier``."""

MAX_WIDTH: Final = 8  # bytes of the widest integer that NumPy and TensorFlow have

_BYTE_BITS: Final = 8

_HALF: Final = 1 << 63
"""Sums of two elements below this fit into 64 bits."""

_PARTS: Final = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
"""The integers that NumPy copies together, for the widths that are no integer of their own: 5 bytes are 4 and 1."""


class Ring(msgspec.Struct, frozen=True, array_like=True):
    """The integers modulo 2^(8·width), or modulo ``modulus`` if that is not 0.

    Attributes:
        width: bytes of one element on the wire, 1 to 8.
        modulus: 0, or from 1 to 2^64 - 1; the width is then 8.

    Raises:
        MaskingError: no such ring exists.
    """

    width: int
    modulus: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_WIDTH:
            raise MaskingError(f"an element of {self.width} bytes cannot be masked", hint=SAME_VERSION)
        if self.modulus and (self.width != MAX_WIDTH or not 0 < self.modulus < 1 << 64):
            raise MaskingError(f"values modulo {self.modulus} cannot be masked", hint=SAME_VERSION)

    @property
    def carrier(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The unsigned dtype that holds an element in memory: the narrowest with at least ``width`` bytes."""
        size = next(size for size in (1, 2, 4, 8) if size >= self.width)
        return np.dtype(f"<u{size}")

    def elements(self, values: npt.NDArray[np.integer[Any]]) -> Elements:
        """Return integers of any dtype and shape as elements; their values are taken modulo the ring's size.

        Raises:
            MaskingError: the values are no integers.
        """
        if values.dtype.kind not in "iu":
            raise MaskingError(f"values of dtype {values.dtype} cannot be masked", hint=_INTEGERS)
        flat = values.reshape(-1)
        if not self.modulus:
            return self._truncated(flat.astype(self.carrier))  # a conversion between integers wraps around
        if flat.dtype.kind == "u":
            return flat.astype(np.uint64) % np.uint64(self.modulus)
        # In Python's and NumPy's signed arithmetic, a negative number and a modulus above 2^63 have no common dtype.
        size = np.abs(flat.astype(np.int64)).astype(np.uint64) % np.uint64(self.modulus)
        return np.where((flat < 0) & (size > 0), np.uint64(self.modulus) - size, size)

    def values(self, elements: Elements, dtype: np.dtype[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
        """Return elements as integers of a dtype: for a signed dtype, the upper half of the ring is negative.

        The elements of a modular ring are from 0 to ``modulus`` - 1 in every dtype.
        """
        elements = self._truncated(elements.copy())  # sums have carried into the bits above the width
        if self.modulus or dtype.kind == "u" or self.width == self.carrier.itemsize == dtype.itemsize:
            return elements.astype(dtype)
        sign = 1 << (_BYTE_BITS * self.width - 1)
        wide = elements.astype(np.uint64)
        return ((wide ^ np.uint64(sign)) - np.uint64(sign)).astype(np.int64).astype(dtype)

    def add(self, total: Elements, part: Elements) -> None:
        """Add ``part`` to ``total``, in place; elements of a modular ring are below its modulus."""
        if not self.modulus:
            np.add(total, part, out=total)
        elif self.modulus <= _HALF:
            total += part  # does not wrap around, and so is the greater of the two where it is below the modulus
            np.minimum(total, total - np.uint64(self.modulus), out=total)
        else:
            left = np.uint64(self.modulus) - part  # never overflows, where the sum of the two may
            np.copyto(total, np.where(total >= left, total - left, total + part))

    def subtract(self, total: Elements, part: Elements) -> None:
        """Subtract ``part`` from ``total``, in place; elements of a modular ring are below its modulus."""
        if not self.modulus:
            np.subtract(total, part, out=total)
        elif self.modulus <= _HALF:
            total -= part  # below zero it wraps around to a number above all elements
            np.minimum(total, total + np.uint64(self.modulus), out=total)
        else:
            np.copyto(total, np.where(total >= part, total - part, total + (np.uint64(self.modulus) - part)))

    def pack(self, elements: Elements) -> bytes:
        """Return elements as bytes, ``width`` for each, the lowest first."""
        if self.width == self.carrier.itemsize:
            return elements.tobytes()
        packed = bytearray(elements.size * self.width)
        for wide, narrow in self._parts(np.ascontiguousarray(elements), packed):
            narrow[:] = wide
        return bytes(packed)

    def unpack(self, data: bytes | memoryview) -> Elements:
        """Return the elements that :meth:`pack` returned as bytes.

        Raises:
            MaskingError: the bytes are not whole elements of this ring.
        """
        count, rest = divmod(len(data), self.width)
        if rest:
            raise MaskingError(f"{len(data)} bytes are not elements of {self.width} bytes each", hint=SAME_VERSION)
        if self.width == self.carrier.itemsize:
            elements = np.frombuffer(data, self.carrier).copy()
        else:
            elements = np.zeros(count, self.carrier)
            for wide, narrow in self._parts(elements, data):
                wide[:] = narrow
        if self.modulus and elements.size and elements.max() >= self.modulus:
            raise MaskingError(f"an element is not below its modulus {self.modulus}", hint=SAME_VERSION)
        return elements

    def _parts(self, elements: Elements, packed: bytes | bytearray | memoryview) -> Iterator[tuple[Elements, Elements]]:
        """Yield views of the same parts of all elements: in memory, and where they are packed."""
        start = 0
        for size in _PARTS[self.width] if elements.size else ():
            shape, dtype = elements.shape, np.dtype(f"<u{size}")
            yield (
                np.ndarray(shape, dtype, elements, start, (self.carrier.itemsize,)),
                np.ndarray(shape, dtype, packed, start, (self.width,)),
            )
            start += size

    def _truncated(self, elements: Elements) -> Elements:
        """Return elements without the carrier's bits above the ring's width."""
        if self.width < self.carrier.itemsize:
            elements &= self.carrier.type((1 << (_BYTE_BITS * self.width)) - 1)
        return elements


def ring_of(dtype: npt.DTypeLike, modulus: int = 0) -> Ring:
    """Return the ring in which sums of a dtype are computed: as wide as the dtype, or modulo ``modulus``.

    Raises:
        MaskingError: sums of this dtype cannot be masked.
    """
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        raise MaskingError(f"values of dtype {kind} cannot be masked", hint=_INTEGERS)
    return Ring(MAX_WIDTH, modulus) if modulus else Ring(kind.itemsize)


_INTEGERS: Final = "sum integers, or use an aggregator that quantizes, such as tff.learning.secure_aggregator"
