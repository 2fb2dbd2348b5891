"""Messages as bytes, made by hand: a valid prefix and checksum around any header."""

from __future__ import annotations

import struct

import xxhash

from fedbroker.wire.codec import VERSION

__all__ = ["message_body"]


def message_body(header: bytes, rest: bytes = b"") -> bytes:
    """Return the body of a message with that header, followed by ``rest``."""
    prefix = struct.pack(">2sBBI", b"FB", VERSION, 0, len(header))
    return b"".join((prefix, xxhash.xxh3_64_digest(prefix + header), header, rest))
