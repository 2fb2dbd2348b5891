"""Messages as bytes, made by hand: with a right prefix and checksum around whatever a header is."""

from __future__ import annotations

import struct

import xxhash

from fedbroker.wire.codec import VERSION

__all__ = ["body"]


def body(header: bytes, rest: bytes = b"") -> bytes:
    """The body of a message with that header, and with what follows it."""
    prefix = struct.pack(">2sBBI", b"FB", VERSION, 0, len(header))
    return b"".join((prefix, xxhash.xxh3_64_digest(prefix + header), header, rest))
