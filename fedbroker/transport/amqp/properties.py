"""Tolerant decoders for message properties: malformed properties damage one message, not the connection.

RabbitMQ does not check a message's strings, timestamps or depth of tables. pamqp raises an error if a string is not
UTF-8, a timestamp is beyond the year 9999 or a table is nested a few hundred times, and takes most of a second for a
long list. aiormq's reader does not survive an error and closes the connection. The broker then delivers the message
again, on the next connection: a sender of one malformed message could disconnect its reader for good.

aiormq has no hook for this, so :func:`install` replaces decoders in pamqp's table, for the whole process. The decoded
values are the same for all input that pamqp decodes without an error.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pamqp import common, decode

__all__ = ["LONGEST_TABLE", "install"]

LONGEST_TABLE: Final = 16 * 1024
"""Maximum bytes of headers to decode: pamqp takes up to 10 ms for this length, and up to 700 ms for 128 KiB."""

_SIZE: Final = 4
"""Bytes of a table's length prefix."""

_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


def install() -> None:
    """Replace pamqp's decoders of strings, tables and timestamps by tolerant ones."""
    decode.METHODS.update(shortstr=_words, table=_table, timestamp=_time)


def _words(value: bytes) -> tuple[int, str]:
    r"""Decode a short string; invalid UTF-8 becomes escapes like ``\xff``, which no name of ours contains."""
    try:
        return decode.short_str(value)
    except UnicodeDecodeError:
        end = 1 + value[0]
        return end, value[1:end].decode("utf-8", "backslashreplace")


def _table(value: bytes) -> tuple[int, common.FieldTable]:
    """Decode headers; a table that is malformed or longer than ``LONGEST_TABLE`` counts as empty."""
    end = _SIZE + int.from_bytes(value[:_SIZE])
    if _SIZE + LONGEST_TABLE < end <= len(value):
        return end, {}
    try:
        return decode.field_table(value)
    except (ValueError, ArithmeticError, LookupError, RecursionError):
        if end > len(value):
            raise  # the frame is shorter than its table: the frame is broken, not the sender's table
        return end, {}


def _time(value: bytes) -> tuple[int, datetime]:
    """Decode a timestamp; a value that Python cannot represent becomes 1970."""
    try:
        return decode.timestamp(value)
    except (ValueError, ArithmeticError, OSError):
        return 8, _NO_TIME
