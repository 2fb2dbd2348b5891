"""Protocol buffers' outermost frame, made and taken off by hand, so that large values are never parsed here.

A message field that holds a message is its tag, its length and its bytes; see the encoding in the documentation of
protocol buffers. Imports wire-free standard library only.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Buffer", "frame", "unframe"]

Buffer: TypeAlias = bytes | bytearray | memoryview

_LENGTH_DELIMITED = 2


def frame(field: int, payload: Buffer) -> bytes:
    """The field's tag and length, to be followed by ``payload``."""
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(len(payload))


def unframe(message: bytes, field: int) -> bytes:
    """The content of a message's only field.

    Raises:
        ValueError: it is not that field, or not the only one.
    """
    if not message:
        return b""
    tag, start = _read_varint(message, 0)
    length, start = _read_varint(message, start)
    if tag != field << 3 | _LENGTH_DELIMITED or start + length != len(message):
        raise ValueError("a message of the C++ runtime has an unknown layout")
    return message[start:]


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    number = shift = 0
    for index in range(start, min(start + 10, len(data))):
        number |= (data[index] & 0x7F) << shift
        if not data[index] & 0x80:
            return number, index + 1
        shift += 7
    raise ValueError("a message of the C++ runtime ends in the middle of a number")
