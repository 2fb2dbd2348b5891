"""What a broker passes on of a message's properties, read in whatever bytes: damage is the message's, not the line's.

RabbitMQ looks into neither words nor points in time nor how deep a table is. pamqp raises an error where words are not
UTF-8, a time is beyond the year 9999 or a table is nested a few hundred times, takes most of a second for a long list,
and aiormq's reader, which does not survive an error, takes the connection along. The broker then delivers the message
again, on the next connection: whoever may publish one message could keep its reader away for good.

aiormq has no hook for that, so :func:`install` puts other decoders into pamqp's table of them, for the whole process.
They are the same for all that pamqp reads without an error. Knows pamqp only.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pamqp import common, decode

__all__ = ["LONGEST_TABLE", "install"]

LONGEST_TABLE: Final = 16 * 1024
"""Bytes of headers that are read: pamqp takes 10 ms for the worst of that length, and 700 ms for those of 128 KiB."""

_SIZE: Final = 4
"""Bytes in which a table says how long it is."""

_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


def install() -> None:
    """Have pamqp read whatever comes."""
    decode.METHODS.update(shortstr=_words, table=_table, timestamp=_time)


def _words(value: bytes) -> tuple[int, str]:
    r"""Read words; bytes that are no UTF-8 become escapes, such as ``\xff``, which no name of ours has."""
    try:
        return decode.short_str(value)
    except UnicodeDecodeError:
        end = 1 + value[0]
        return end, value[1:end].decode("utf-8", "backslashreplace")


def _table(value: bytes) -> tuple[int, common.FieldTable]:
    """Read headers; those that cannot be read, or that nobody needs, are none."""
    end = _SIZE + int.from_bytes(value[:_SIZE])
    if _SIZE + LONGEST_TABLE < end <= len(value):
        return end, {}
    try:
        return decode.field_table(value)
    except (ValueError, ArithmeticError, LookupError, RecursionError):
        if end > len(value):
            raise  # not the sender's table, but a frame that is none
        return end, {}


def _time(value: bytes) -> tuple[int, datetime]:
    """Read a point in time; one that Python does not know is 1970."""
    try:
        return decode.timestamp(value)
    except (ValueError, ArithmeticError, OSError):
        return 8, _NO_TIME
