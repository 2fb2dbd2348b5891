"""The protocol of the control socket: one request and one reply for each connection, each a line of JSON.

Both ends bound what they read: the other one may be an older or newer version, or broken.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from fedbroker_worker.control.views import StatusView, WorkView

__all__ = [
    "MAX_REPLY",
    "MAX_REQUEST",
    "MAX_WATCH_SECONDS",
    "Account",
    "Changes",
    "Condition",
    "Explain",
    "Malformed",
    "Pause",
    "Rejection",
    "Reply",
    "Request",
    "Resume",
    "Status",
    "Watch",
    "decode_reply",
    "decode_request",
    "encode",
]

T = TypeVar("T")

MAX_REQUEST: Final = 4096
"""Bytes of a request with its newline: the largest takes a hundred."""

MAX_REPLY: Final = 8 << 20
"""Bytes of a reply with its newline: several times the most work items of one reply, each with all that it may name."""

MAX_WATCH_SECONDS: Final = 30.0
"""The most seconds for which a reply may wait for a change."""

_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=MAX_WATCH_SECONDS)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]


class Status(msgspec.Struct, frozen=True, tag="status", tag_field="request"):
    """Ask for the silo's status."""


class Pause(msgspec.Struct, frozen=True, tag="pause", tag_field="request"):
    """Take no work of new sessions from now on."""


class Resume(msgspec.Struct, frozen=True, tag="resume", tag_field="request"):
    """Take work again."""


class Watch(msgspec.Struct, frozen=True, tag="watch", tag_field="request"):
    """Ask for the work items that changed.

    Attributes:
        incarnation: of the process that ``after`` counts for; another process replies with all of its work items.
        after: the ``changed`` of the latest reply.
        seconds: how long to wait for a change.
    """

    incarnation: Annotated[str, msgspec.Meta(max_length=64)] = ""
    after: _Number = 0
    seconds: _Seconds = 0.0


class Explain(msgspec.Struct, frozen=True, tag="explain", tag_field="request"):
    """Ask what a work item computes, in words.

    Attributes:
        id: of the work item.
    """

    id: _Number


Request: TypeAlias = Status | Pause | Resume | Watch | Explain


class Condition(msgspec.Struct, frozen=True, tag="status", tag_field="reply"):
    """The silo's status, after what was asked was done.

    Attributes:
        status: the status.
        note: what could not be done, in one line; empty for nothing.
    """

    status: StatusView
    note: str = ""


class Changes(msgspec.Struct, frozen=True, tag="changes", tag_field="reply"):
    """Work items that changed, oldest change first.

    Attributes:
        status: the silo's status.
        changed: the latest change in this reply: the next request's ``after``.
        work: the work items.
        more: further ones changed, too.
    """

    status: StatusView
    changed: int
    work: list[WorkView]
    more: bool


class Account(msgspec.Struct, frozen=True, tag="account", tag_field="reply"):
    """A work item in words.

    Attributes:
        id: of the work item.
        lines: the lines.
    """

    id: int
    lines: list[str]


class Rejection(msgspec.Struct, frozen=True, tag="error", tag_field="reply"):
    """The request was not understood, or cannot be met.

    Attributes:
        reason: one line.
        denied: the other process's user may not control this silo.
    """

    reason: str
    denied: bool = False


Reply: TypeAlias = Condition | Changes | Account | Rejection

_REQUESTS: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)
_REPLIES: Final[msgspec.json.Decoder[Reply]] = msgspec.json.Decoder(Reply)
_ENCODER: Final = msgspec.json.Encoder()


class Malformed(ValueError):
    """A line that is no request, or no reply."""


def encode(message: Request | Reply) -> bytes:
    """Return a message as a line."""
    return _ENCODER.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """Read a request.

    Raises:
        Malformed: it is none.
    """
    return _decoded(_REQUESTS, line, MAX_REQUEST)


def decode_reply(line: bytes) -> Reply:
    """Read a reply.

    Raises:
        Malformed: it is none.
    """
    return _decoded(_REPLIES, line, MAX_REPLY)


def _decoded(decoder: msgspec.json.Decoder[T], line: bytes, most: int) -> T:
    if len(line) > most or not line.endswith(b"\n"):
        raise Malformed(f"no line of at most {most} bytes")
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # also of a wrong type or value
        raise Malformed(" ".join(str(error).split())[:200]) from None
