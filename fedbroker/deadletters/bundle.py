"""A work item together with the blobs that it needs, as far as they are at hand: out of a letter, or out of files.

Imports wire and the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedbroker.errors import ConfigError, WireError
from fedbroker.trust.envelope import unverified_body
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.codec import decode
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Call, Compute, Data, Digest, Drop, Op, Select, Struct, Value, WorkItem

__all__ = ["WorkBundle", "save_blobs"]


@dataclass(frozen=True, slots=True)
class WorkBundle:
    """A work item and blobs.

    Attributes:
        item: the work item.
        blobs: those that are here.
        loaded: those of them that came out of files.
    """

    item: WorkItem
    blobs: Mapping[Digest, Buffer]
    loaded: frozenset[Digest] = frozenset()

    @classmethod
    def opened(cls, body: Buffer, limits: Limits = DEFAULT_LIMITS) -> WorkBundle:
        """From the body of an AMQP message.

        Raises:
            WireError: that is no work item, or is damaged.
        """
        message, attachments = decode(unverified_body(body), limits)
        if not isinstance(message, WorkItem):
            raise WireError(f"a {type(message).__name__} where a work item should be", hint="choose another one")
        return cls(message, {digest_of(one): one for one in attachments})

    @property
    def named(self) -> tuple[Digest, ...]:
        """The blobs that the program needs, each once."""
        return tuple(dict.fromkeys(op.blob for op in self.item.program if isinstance(op, Value)))

    @property
    def lacking(self) -> tuple[Digest, ...]:
        """Those of them that are not here."""
        return tuple(digest for digest in self.named if digest not in self.blobs)

    @property
    def kept(self) -> tuple[int, ...]:
        """The values that the program takes from an earlier stage of its session, each once."""
        made: set[int] = set()
        kept: dict[int, None] = {}
        for op in self.item.program:
            kept |= dict.fromkeys(ref for ref in _used(op) if ref not in made)
            if isinstance(op, Value | Data | Struct | Select | Call):
                made.add(op.ref)
        return tuple(kept)

    def with_files(self, directory: Path) -> WorkBundle:
        """The same with what is lacking read from files that are named by their digests, as far as they are there.

        Raises:
            ConfigError: there is no such directory, a file cannot be read, or it holds something else.
        """
        if not directory.is_dir():
            raise ConfigError(f"there is no directory {directory}", hint="correct --blobs")
        found = {digest: _read(directory / digest) for digest in self.lacking if (directory / digest).exists()}
        return WorkBundle(self.item, {**self.blobs, **found}, frozenset(found))


def save_blobs(directory: Path, blobs: Iterable[Buffer]) -> None:
    """Write blobs to files that are named by their digests; makes the directory.

    Raises:
        ConfigError: it cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for blob in blobs:
            (directory / digest_of(blob)).write_bytes(blob)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written to: {error.strerror}", hint="name another one") from None


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint="correct --blobs") from None
    if digest_of(content) != file.name:
        raise ConfigError(f"{file} does not hold the blob of its name", hint="take it out of the directory")
    return content


def _used(op: Op) -> Sequence[int]:
    match op:
        case Struct(_, elements):
            return [ref for _, ref in elements]
        case Select(_, source, _):
            return [source]
        case Call(_, function, argument):
            return [function] if argument is None else [function, argument]
        case Compute(ref):
            return [ref]
        case Drop(refs):
            return refs
        case _:
            return []
