"""Decoding of what another party has sent for a masked sum."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from fedbroker.errors import MaskingError
from fedbroker.wire.blobs import Buffer

__all__ = ["SAME_VERSION", "decoded"]

SAME_VERSION: Final = "use the same version of fedbroker at both ends"
"""The hint of errors that only another version can cause."""

T = TypeVar("T")


def decoded(content: Buffer, kind: type[T], what: str) -> T:
    """Return the value that msgpack bytes hold.

    Args:
        content: the bytes.
        kind: the type of the value.
        what: the bytes in words, for the error.

    Raises:
        MaskingError: they hold no value of that type.
    """
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise MaskingError(f"{what} cannot be read", hint=SAME_VERSION) from None
