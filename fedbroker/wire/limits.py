"""How much one message may ask of its reader: checked by whoever writes it and again by whoever reads it.

Imports the errors only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from fedbroker.errors import ConfigError

__all__ = ["DEFAULT_LIMITS", "Limits"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
_HEADER: Final = 4 * KIB  # room for a chunk's own


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on messages and blobs; sizes in bytes, times in seconds.

    Attributes:
        max_message: of one AMQP body. RabbitMQ 4 refuses more than 16 MiB by default.
        max_header: of a message's header, the part that is parsed.
        max_ops: operations of one work item, and elements of any other list or map in a header.
        max_attachments: attachments of one message.
        inline_blob: a blob up to this size rides with its message; a larger one goes by the bulk lane.
        inline_total: all blobs that ride with one message together.
        held_results: results of one work item beyond this, and beyond the silo's share of 128 MiB, are announced, and
            sent when the coordinator has room.
        max_blob: of one blob.
        small_blob: a blob up to this size is cut into pieces of ``small_chunk``, a larger one of ``large_chunk``.
        small_chunk: see ``small_blob``.
        large_chunk: see ``small_blob``.
        min_chunk: what the reader takes as a piece, the last one of a blob apart.
        max_pending_blobs: blobs of which some pieces are here and some are not.
        max_pending_bytes: what those take together.
        pending_seconds: a blob of which no further piece comes for so long is given up.
        max_strikes: messages of one silo in a minute that make no sense or that nobody waits for; with one more it is
            out of whatever it takes part in, and not listened to for the rest of the minute.
        max_lobby_entries: incarnations of one silo that a coordinator takes note of in the lobby.
        max_silos: silos that one coordinator knows at a time; it sends further ones away for a while.

    Raises:
        ConfigError: one of them is not positive.
    """

    max_message: int = 16 * MIB - 64 * KIB
    max_header: int = 4 * MIB
    max_ops: int = 100_000
    max_attachments: int = 4096
    inline_blob: int = 16 * KIB
    inline_total: int = 1 * MIB
    held_results: int = 1 * MIB
    max_blob: int = 1 * GIB
    small_blob: int = 16 * MIB
    small_chunk: int = 1 * MIB
    large_chunk: int = 4 * MIB
    min_chunk: int = 64 * KIB
    max_pending_blobs: int = 64
    max_pending_bytes: int = 2 * GIB
    pending_seconds: float = 60.0
    max_strikes: int = 256
    max_lobby_entries: int = 16
    max_silos: int = 10_000

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not getattr(self, limit.name) > 0:
                raise ConfigError(f"{limit.name} is {getattr(self, limit.name)}", hint="it must be positive")

    def chunk_bytes(self, size: int) -> int:
        """How large the pieces of a blob of ``size`` bytes are.

        What would be left over, where it is too little for a piece of its own, is spread over the others: a value of a
        round number of bytes has a few more when it is serialized.
        """
        piece = self.small_chunk if size <= self.small_blob else self.large_chunk
        left_over = size % piece < self.min_chunk and size > piece
        if left_over and piece + self.min_chunk + _HEADER <= self.max_message:
            return -(-size // (size // piece))
        return piece


DEFAULT_LIMITS: Final = Limits()
