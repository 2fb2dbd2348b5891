"""A coordinator's events on the broker, for those who watch: JSON without values, data or secrets.

A message is a JSON array of events. Their exchange is read by boards only, so nothing depends on their arrival.
Decoding any bytes returns events or raises WireError, and every string of an event is one printable line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta

from fedbroker.errors import WireError
from fedbroker.text import printable
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import Id, Name

__all__ = ["MAX_EVENTS", "CohortEvent", "decode_events", "encode_events"]

MAX_BYTES: Final = 4 * 1024 * 1024
"""Maximum bytes of a message; an event with the names of ten thousand members has 640 KiB."""
MAX_EVENTS: Final = 100
"""Maximum number of events in a message."""
MAX_TEXT: Final = 1000
"""Maximum characters of a text in an event: errors may be long."""
MAX_DEPTH: Final = 4
"""Nesting of lists and mappings in an event's details."""

_SAME_VERSION: Final = "use the same version of fedbroker on both sides"


class CohortEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a cohort, one of its sessions, or a program's run: see ``docs/events.md``.

    Attributes:
        coordinator: the coordinator's id.
        sequence: number of the event, counted from 0 by its coordinator, lost events included.
        time: the coordinator's clock, in seconds since 1970.
        name: of the event, such as ``silo_answered``.
        session: the session's id, or empty.
        stage: the client stage's number, or None.
        silo: the silo's name, or empty.
        details: the other fields.
    """

    cohort: Name
    coordinator: Name
    sequence: Annotated[int, Meta(ge=0)]
    time: Annotated[float, Meta(ge=0)]
    name: Annotated[str, Meta(pattern=r"\A[a-z_]{1,40}\Z")]
    session: Id = ""
    stage: int | None = None
    silo: Id = ""
    details: dict[str, Any] = {}


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Annotated[list[CohortEvent], Meta(max_length=MAX_EVENTS)])


def encode_events(events: Sequence[CohortEvent]) -> bytes:
    """Return the body of a message with at most ``MAX_EVENTS`` events.

    Raises:
        WireError: an event cannot be encoded, or they are too large.
    """
    try:
        body = _encoder.encode(events)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"events cannot be encoded: {error}") from None
    if len(body) > MAX_BYTES:
        raise WireError(f"events of {len(body)} bytes, the limit is {MAX_BYTES}")
    return body


def decode_events(body: Buffer) -> list[CohortEvent]:
    """Return the events in a message's body.

    Raises:
        WireError: the body holds no events, or exceeds the limits. No other exception is raised, for any bytes.
    """
    if memoryview(body).nbytes > MAX_BYTES:
        raise WireError(f"events of more than {MAX_BYTES} bytes")
    try:
        return [
            msgspec.structs.replace(event, details=cast("dict[str, Any]", _cleaned(event.details, MAX_DEPTH)))
            for event in _decoder.decode(body)
        ]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = printable((str(error).splitlines() or [type(error).__name__])[0], 200)
        raise WireError(f"events cannot be decoded: {text}", hint=_SAME_VERSION) from None


def _cleaned(value: object, depth: int) -> object:
    """Return a decoded value whose strings are printable and bounded, and whose numbers are finite."""
    if isinstance(value, str):
        return printable(value, MAX_TEXT)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | dict):
        if depth == 0:
            raise ValueError("too many nested values")
        if isinstance(value, list):
            return [_cleaned(element, depth - 1) for element in cast("list[object]", value)]
        fields = cast("dict[str, object]", value)
        return {printable(name, MAX_TEXT): _cleaned(element, depth - 1) for name, element in fields.items()}
    return value
