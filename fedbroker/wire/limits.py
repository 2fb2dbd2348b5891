"""Bounds on messages and blobs, checked by the sender and again by the receiver."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from fedbroker.errors import ConfigError, WireError

__all__ = ["DEFAULT_LIMITS", "Limits", "too_large_value"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
_HEADER: Final = 4 * KIB  # space for a chunk's own header


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on messages and blobs; sizes in bytes, times in seconds.

    Attributes:
        max_message: of one AMQP body. RabbitMQ 4 refuses more than 16 MiB by default.
        max_header: of a message's header, the part that is parsed.
        max_ops: operations of one work item, and elements of any other list or map in a header.
        max_attachments: attachments of one message.
        inline_blob: a blob up to this size travels with its message; a larger one as chunks on the bulk connection.
        inline_total: total size of the blobs that travel with one message.
        held_results: outputs of one work item beyond this, and beyond the silo's share of 128 MiB, are only announced;
            the silo sends them when the coordinator asks for them.
        max_blob: of one blob.
        small_blob: a blob up to this size is cut into chunks of ``small_chunk``, a larger one of ``large_chunk``.
        small_chunk: see ``small_blob``.
        large_chunk: see ``small_blob``.
        min_chunk: the smallest chunk that a receiver accepts, except for the last one of a blob.
        max_pending_blobs: incomplete blobs that a receiver holds.
        max_pending_bytes: total size of these blobs.
        pending_seconds: a blob that gets no further chunk for this long is abandoned.
        max_strikes: invalid or unexpected messages that a silo may send in a minute; with one more it is dropped from
            its sessions, and its messages are ignored for the rest of the minute.
        max_lobby_entries: incarnations of one silo that a coordinator keeps from announcements.
        max_silos: silos that one coordinator admits at a time; it rejects further ones for a while.

    Raises:
        ConfigError: a limit is not positive.
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
    # The fastest of 256 KiB, 1, 4 and 8 MiB for a blob of 100 MiB (python -m benchmarks.settings).
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
        """Return the size of the chunks of a blob of ``size`` bytes.

        A remainder that is too small for a chunk is spread over the other chunks: serialization adds a few bytes to a
        value whose size is a multiple of the chunk size.
        """
        chunk = self.small_chunk if size <= self.small_blob else self.large_chunk
        left_over = size % chunk < self.min_chunk and size > chunk
        if left_over and chunk + self.min_chunk + _HEADER <= self.max_message:
            return -(-size // (size // chunk))
        return chunk


DEFAULT_LIMITS: Final = Limits()


def too_large_value(size: int, limit: int) -> WireError:
    """Return the error for a value beyond ``max_blob``: a struct counts as one value with all of its tensors."""
    return WireError(
        f"a value of {size} bytes exceeds the limit of {limit} bytes, which holds for the whole value (max_blob)",
        hint="return or broadcast less, or raise max_blob at both ends: Options(limits=) of the program and [limits] of"
        " the silo",
    )
