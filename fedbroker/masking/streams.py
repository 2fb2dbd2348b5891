"""Streams: the masks that follow from a key.

A stream is the keystream of AES-256 in counter mode. Its key is used for one stream only, so its first counter can be
zero. Both ends of a pair draw the same masks, in the same order, however long the pieces are in which they draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedbroker.masking.rings import Elements, Ring

__all__ = ["PIECE", "Stream", "apply_masks"]

PIECE: Final = 1 << 18
"""Bytes of a keystream that are drawn at a time: they stay in the processor's cache, and memory stays flat."""

_ZERO_COUNTER: Final = bytes(16)
_ZEROS: Final = memoryview(bytes(PIECE))  # encrypted zeros are the keystream itself
_SPARE_BYTES: Final = 15  # OpenSSL wants room for a block more than it writes
_DRAW_BYTES: Final = 8  # bytes of one draw for a modular ring
_SIZE: Final = 1 << 64  # number of values of a draw


class _Room:
    """Memory for one piece of masks, used for all pieces in turn."""

    def __init__(self) -> None:
        self.drawn: Final = bytearray(PIECE + _SPARE_BYTES)
        self.below: npt.NDArray[np.uint64] | None = None  # only modular rings need it

    def modular(self, count: int) -> npt.NDArray[np.uint64]:
        """Return room for masks of a modular ring."""
        if self.below is None:
            self.below = np.empty(PIECE // _DRAW_BYTES, np.uint64)
        return self.below[:count]


class Stream:
    """Masks from a key; its ``repr`` does not show the key.

    Args:
        key: 32 secret bytes, used for this stream only.
    """

    def __init__(self, key: bytes) -> None:
        # Nothing is encrypted or authenticated here: only the keystream is used.
        self._cipher: CipherContext = Cipher(AES(key), CTR(_ZERO_COUNTER)).encryptor()

    def __repr__(self) -> str:
        return "Stream()"

    def mask(self, ring: Ring, total: Elements, *, negative: bool = False) -> None:
        """Add the stream's next masks to elements, in place, or subtract them.

        Args:
            ring: the elements' ring; the masks are uniform in it.
            total: the elements.
            negative: subtract the masks.
        """
        apply_masks(ring, total, [(self, negative)])

    def next_masks(self, ring: Ring, count: int, room: _Room) -> Elements:
        """Return the next masks; they lie in ``room`` until it is used again."""
        if ring.modulus:
            return self._below(ring.modulus, room.modular(count), room.drawn)
        # The bits of a carrier above its ring's width are of no consequence.
        return self._drawn(count, ring.carrier, room.drawn)

    def _drawn(self, count: int, dtype: npt.DTypeLike, room: bytearray) -> Elements:
        self._cipher.update_into(_ZEROS[: count * np.dtype(dtype).itemsize], room)
        return np.frombuffer(room, dtype, count)

    def _below(self, modulus: int, masks: npt.NDArray[np.uint64], room: bytearray) -> Elements:
        """Fill ``masks`` with uniform values from 0 to ``modulus`` - 1, and return them.

        A draw at or above the largest multiple of the modulus is rejected: reduced, it would favour small values.
        Exactly as many values are drawn as are still missing, so that pieces of any length give the same values.
        """
        limit = _SIZE // modulus * modulus
        filled = 0
        while filled < masks.size:
            drawn = self._drawn(masks.size - filled, "<u8", room)
            if limit < _SIZE:
                drawn = drawn[drawn < np.uint64(limit)]
            masks[filled : filled + drawn.size] = drawn
            filled += drawn.size
        # NumPy divides by one number several times faster than it takes a remainder.
        multiples = masks // np.uint64(modulus)
        multiples *= np.uint64(modulus)
        masks -= multiples
        return masks


def apply_masks(ring: Ring, total: Elements, streams: Sequence[tuple[Stream, bool]]) -> None:
    """Add the next masks of several streams to elements, in place.

    All streams are applied to one piece before the next, so that the piece is in the processor's cache.

    Args:
        ring: the elements' ring; the masks are uniform in it.
        total: the elements.
        streams: the streams, each with True if its masks are subtracted.
    """
    step = PIECE // ring.carrier.itemsize
    room = _Room()
    for start in range(0, total.size, step):
        piece = total[start : start + step]
        for stream, negative in streams:
            apply = ring.subtract if negative else ring.add
            apply(piece, stream.next_masks(ring, piece.size, room))
