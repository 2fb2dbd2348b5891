"""Sealed blobs: encrypted once for all their readers.

A blob is sealed in pieces of 1 MiB with AES-256-GCM, each followed by its tag of 16 bytes. The key belongs to this blob
alone, derived from a secret and the blob's digest: so a piece's number is its nonce, and sealing the same blob with the
same secret gives the same bytes. Each piece authenticates the blob's size as well. Plain functions of bytes.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedbroker.errors import Forged
from fedbroker.trust.keys import derived
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.messages import Digest

__all__ = ["open_blob", "seal_blob"]

PIECE: Final = 1 << 20
TAG: Final = 16  # of AES-GCM


def seal_blob(data: Buffer, digest: Digest, secret: bytes) -> bytearray:
    """Encrypt a blob for the readers that have the secret and know the digest.

    Args:
        data: the blob.
        digest: its digest.
        secret: 32 bytes; with one secret, a digest always stands for the same blob.
    """
    view = memoryview(data).cast("B")
    cipher = AESGCM(derived(secret, b"blob " + digest.encode()))
    pieces = max(1, -(-len(view) // PIECE))
    sealed = bytearray(len(view) + pieces * TAG)
    at = 0
    for number in range(pieces):
        piece = cipher.encrypt(_nonce(number), view[number * PIECE : (number + 1) * PIECE], _size(len(view)))
        sealed[at : at + len(piece)] = piece
        at += len(piece)
    return sealed


def open_blob(sealed: Buffer, digest: Digest, secret: bytes) -> memoryview:
    """Decrypt a blob.

    Raises:
        Forged: it was sealed with another secret, is another blob, or was changed.
    """
    view = memoryview(sealed).cast("B")
    pieces = max(1, -(-len(view) // (PIECE + TAG)))
    size = len(view) - pieces * TAG
    if size < 0:
        raise Forged(f"a sealed blob is cut short: {len(view)} bytes", hint=_AGAIN)
    cipher = AESGCM(derived(secret, b"blob " + digest.encode()))
    data = bytearray(size)
    try:
        for number in range(pieces):
            start = number * (PIECE + TAG)
            piece = cipher.decrypt(_nonce(number), view[start : start + PIECE + TAG], _size(size))
            data[number * PIECE : number * PIECE + len(piece)] = piece
    except InvalidTag:
        raise Forged("a sealed blob cannot be opened", hint=_AGAIN) from None
    if digest_of(data) != digest:  # another holder of the secret may have sealed other data
        raise Forged("a sealed blob is another one than was said", hint=_AGAIN)
    return memoryview(data).toreadonly()


_AGAIN: Final = "run it again, and find out who changes what lies at the broker"


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _size(size: int) -> bytes:
    return size.to_bytes(8, "big")
