"""The wire protocol: message types, their encoding, limits, blobs and names; without any I/O."""

from __future__ import annotations

from fedbroker.wire.blobs import Assembler, Assembly, Buffer, cut, digest_of
from fedbroker.wire.codec import Frame, decode, encode
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Message, check_name, is_name

__all__ = [
    "DEFAULT_LIMITS",
    "Assembler",
    "Assembly",
    "Buffer",
    "Frame",
    "Limits",
    "Message",
    "check_name",
    "cut",
    "decode",
    "digest_of",
    "encode",
    "is_name",
]
