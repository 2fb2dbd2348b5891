"""Streams: the masks that follow from a key.

A stream is the keystream of AES-256 in counter mode. Its key is used for one stream only, so its first counter can be
zero. Both ends of a pair draw the same masks, in the same order, however long the pieces are in which they draw.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedbroker.masking.rings import Elements, Ring

__all__ = ["PIECE", "Stream"]

PIECE: Final = 1 << 18
"""Bytes of a keystream that are drawn at a time: they stay in the processor's cache, and memory stays flat."""

_ZERO_COUNTER: Final = bytes(16)
_ZEROS: Final = bytes(PIECE)  # encrypted zeros are the keystream itself
_DRAW_BYTES: Final = 8  # bytes of one draw for a modular ring
_SIZE: Final = 1 << 64  # number of values of a draw


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
        apply = ring.subtract if negative else ring.add
        step = PIECE // _DRAW_BYTES if ring.modulus else PIECE // ring.carrier.itemsize
        for start in range(0, total.size, step):
            piece = total[start : start + step]
            apply(piece, self._below(ring.modulus, piece.size) if ring.modulus else self._drawn(ring, piece.size))

    def _drawn(self, ring: Ring, count: int) -> Elements:
        """Return elements of a ring of a power of two; the bits above its width are of no consequence."""
        return np.frombuffer(self._bytes(count * ring.carrier.itemsize), ring.carrier)

    def _below(self, modulus: int, count: int) -> Elements:
        """Return uniform values from 0 to ``modulus`` - 1.

        A draw at or above the largest multiple of the modulus is rejected: reduced, it would favour small values.
        Exactly as many values are drawn as are still missing, so that pieces of any length give the same values.
        """
        limit = _SIZE // modulus * modulus
        accepted: list[Elements] = []
        missing = count
        while missing:
            drawn = np.frombuffer(self._bytes(missing * _DRAW_BYTES), "<u8")
            if limit < _SIZE:
                drawn = drawn[drawn < np.uint64(limit)]
            accepted.append(drawn % np.uint64(modulus))
            missing -= drawn.size
        return np.concatenate(accepted) if len(accepted) != 1 else accepted[0]

    def _bytes(self, count: int) -> bytes:
        if count <= PIECE:
            return self._cipher.update(_ZEROS[:count])
        return b"".join(self._cipher.update(_ZEROS[: min(PIECE, count - at)]) for at in range(0, count, PIECE))
