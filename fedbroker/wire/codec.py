"""Encode messages to bytes and back: a small header in msgpack with a checksum, followed by the attachments unchanged.

Decoding any bytes returns a message or raises WireError, within bounds of time and memory. Text of the sender reaches
logs, terminals and exceptions, so every string of a decoded message is one printable line of bounded length
(:func:`fedbroker.text.printable`). A message with an identifier that breaks its grammar is refused.

Layout: ``FB``, the version (one byte), a zero byte, the header's length and its checksum (xxh3-64 of the eight bytes
before and of the header) as big-endian unsigned integers of four and eight bytes, the header, the attachments back to
back. The header is msgpack of ``[message, [length of each attachment, …]]``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import msgpack
import msgspec
import xxhash

from fedbroker.errors import WireError
from fedbroker.text import printable
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import (
    Accepted,
    Announce,
    Chunk,
    Done,
    EndSession,
    Failed,
    Fetch,
    Leave,
    MaskNotice,
    MaskReply,
    Message,
    Need,
    Rejected,
    Struct,
    WorkItem,
)

__all__ = ["VERSION", "Buffer", "Frame", "decode", "encode"]

VERSION: Final = 2  # of the wire format; no other version is read
_MAGIC: Final = b"FB"
_PREFIX: Final = struct.Struct(">2sBBI")
_CHECKSUM: Final = struct.Struct(">Q")
_HEADER_AT: Final = _PREFIX.size + _CHECKSUM.size

_SAME_VERSION: Final = "use the same version of fedbroker on both sides"
_DAMAGED: Final = "send it again; if it happens again, find out what changes messages in transit"


class Frame(NamedTuple):
    """A decoded message.

    Attributes:
        message: the message itself.
        attachments: read-only views into the bytes that were decoded.
    """

    message: Message
    attachments: tuple[memoryview, ...]


def encode(message: Message, attachments: Sequence[Buffer] = (), limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the message and its attachments as the body of one AMQP message.

    Raises:
        WireError: the message exceeds the limits or cannot be encoded.
    """
    if isinstance(message, WorkItem):
        _check_fields(message)
    views = [memoryview(attachment).cast("B") for attachment in attachments]
    lengths = [len(view) for view in views]
    _check_counts(message, len(views), limits)
    try:
        header = msgpack.packb([msgspec.to_builtins(message), lengths], use_bin_type=True)
    except (ValueError, OverflowError, TypeError) as error:
        raise WireError(f"a message cannot be encoded: {error}") from error
    if len(header) > limits.max_header:
        raise _too_large("header", len(header), limits, "max_header")
    total = _HEADER_AT + len(header) + sum(lengths)
    if total > limits.max_message:
        raise _too_large("message", total, limits, "max_message")
    prefix = _PREFIX.pack(_MAGIC, VERSION, 0, len(header))
    return b"".join([prefix, _checksum(prefix, header), header, *views])


def decode(body: Buffer, limits: Limits = DEFAULT_LIMITS) -> Frame:
    """Return the message in the body of an AMQP message.

    Raises:
        WireError: the body is no fedbroker message, of another version, damaged, cut short, or exceeds the limits. No
            other exception is raised, for any bytes.
    """
    view = memoryview(body).toreadonly().cast("B")
    if len(view) > limits.max_message:
        raise _too_large("message", len(view), limits, "max_message")
    header, rest = _split(view, limits)
    message, lengths = _parse(header, limits)
    if sum(lengths) != len(rest):
        raise WireError(f"attachments of {sum(lengths)} bytes announced, {len(rest)} there", hint=_DAMAGED)
    _check_counts(message, len(lengths), limits)
    _check_numbers(message)
    attachments: list[memoryview] = []
    position = 0
    for length in lengths:
        attachments.append(rest[position : position + length])
        position += length
    return Frame(message, tuple(attachments))


def _split(view: memoryview, limits: Limits) -> tuple[memoryview, memoryview]:
    """Return the header, checked against its checksum, and the bytes after it."""
    if len(view) < _HEADER_AT:
        raise WireError(f"a message of {len(view)} bytes is truncated, or not a fedbroker message", hint=_SAME_VERSION)
    magic, version, zero, length = _PREFIX.unpack_from(view)
    if magic != _MAGIC or zero != 0:
        raise WireError("a message is not a fedbroker message", hint="let only fedbroker publish to its exchanges")
    if version != VERSION:
        raise WireError(f"a message of version {version}, where {VERSION} is required", hint=_SAME_VERSION)
    if length > limits.max_header:
        raise _too_large("header", length, limits, "max_header")
    header = view[_HEADER_AT : _HEADER_AT + length]
    if len(header) != length:
        raise WireError("a message is truncated in its header", hint=_DAMAGED)
    if _checksum(view[: _PREFIX.size], header) != bytes(view[_PREFIX.size : _HEADER_AT]):
        raise WireError("a message's header is damaged", hint=_DAMAGED)
    return header, view[_HEADER_AT + length :]


def _parse(header: memoryview, limits: Limits) -> tuple[Message, tuple[int, ...]]:
    try:
        raw = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            max_str_len=limits.max_header,
            max_bin_len=0,
            max_ext_len=0,
            max_array_len=limits.max_ops,
            max_map_len=limits.max_ops,
        )
        message, lengths = msgspec.convert(_cleaned(raw), tuple[Message, tuple[int, ...]], strict=True)
    except Exception as error:  # any class: no bytes may crash the reader
        raise WireError(f"a message cannot be decoded: {_first_line(error)}", hint=_SAME_VERSION) from error
    if any(length < 0 for length in lengths):
        raise WireError("an attachment of negative length", hint=_DAMAGED)
    return message, lengths


def _cleaned(value: object) -> object:
    """Return a decoded msgpack value with every string in it made printable, the keys of maps included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_cleaned(element) for element in cast("list[object]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        cleaned = {printable(key): _cleaned(element) for key, element in fields.items()}
        if len(cleaned) < len(fields):
            raise ValueError("two names differ only in characters that cannot be printed")
        return cleaned
    return value


def _check_fields(message: WorkItem) -> None:
    """Refuse to send a struct whose field names would change when the receiver makes them printable."""
    structs = (op for op in message.ops if isinstance(op, Struct))
    for name in (name for op in structs for name, _ in op.elements):
        if name != printable(name):
            raise WireError(
                f"a struct's field is named {printable(name, 80)!r}",
                hint="name it with characters that can be printed, and no more than 4096 of them",
            )


def _check_counts(message: Message, attachments: int, limits: Limits) -> None:
    if attachments > limits.max_attachments:
        raise _too_large("number of attachments", attachments, limits, "max_attachments")
    if isinstance(message, Chunk | MaskReply | MaskNotice) and attachments != 1:
        raise WireError(f"a {type(message).__name__} with {attachments} attachments, not one", hint=_DAMAGED)
    if isinstance(message, WorkItem) and len(message.ops) > limits.max_ops:
        raise _too_large("number of operations", len(message.ops), limits, "max_ops")


def _check_numbers(message: Message) -> None:
    """Refuse times, counts and sizes that are negative, infinite or NaN."""
    numbers: Sequence[float] = ()
    match message:
        case WorkItem():
            numbers = (
                message.timeout,
                message.lease,
                message.stage,
                message.clients,
                message.defer_above,
                *message.incoming.values(),
            )
        case Announce():
            counts = (count for source in message.sources.values() for count in (source.rows or 0, source.clients))
            numbers = (message.heartbeat, message.in_flight, *counts)
        case Rejected():
            numbers = message.retry_after
        case Done():
            numbers = (message.duration, message.blob_wait, *(size for _, size in message.outputs))
        case Fetch() | MaskReply() | MaskNotice():
            numbers = (message.stage,)
        case Chunk():
            numbers = (message.size, message.offset)
        case Leave() | Accepted() | Failed() | Need() | EndSession():
            pass
    if any(not math.isfinite(number) or number < 0 for number in numbers):
        raise WireError("a message contains a time, count or size that is negative or not a number", hint=_SAME_VERSION)


def _checksum(prefix: Buffer, header: Buffer) -> bytes:
    state: Any = xxhash.xxh3_64(prefix)
    state.update(header)
    return _CHECKSUM.pack(state.intdigest())


def _too_large(kind: str, size: int, limits: Limits, name: str) -> WireError:
    limit: int = getattr(limits, name)
    return WireError(
        f"a message's {kind} is {size}, the limit is {limit} ({name})",
        hint=f"send less at once, or raise {name} at both ends",
    )


def _first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return printable(text.splitlines()[0], 200)
