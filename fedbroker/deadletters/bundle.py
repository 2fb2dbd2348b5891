"""A work item together with the blobs that it needs, as far as they are present in a dead letter or in files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedbroker.errors import ConfigError, WireError
from fedbroker.trust.envelope import unverified_body
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.codec import decode
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Call, Data, Digest, Seeds, Select, Struct, Value, WorkItem, blobs_of

__all__ = ["WorkBundle", "save_blobs"]


@dataclass(frozen=True, slots=True)
class WorkBundle:
    """A work item and blobs.

    Attributes:
        item: the work item.
        blobs: the blobs that are present, by digest.
        loaded: digests of the blobs that were read from files.
    """

    item: WorkItem
    blobs: Mapping[Digest, Buffer]
    loaded: frozenset[Digest] = frozenset()

    @classmethod
    def opened(cls, body: Buffer, limits: Limits = DEFAULT_LIMITS) -> WorkBundle:
        """Return the bundle in the body of an AMQP message.

        Raises:
            WireError: the body is no work item, or is damaged.
        """
        message, attachments = decode(unverified_body(body), limits)
        if not isinstance(message, WorkItem):
            raise WireError(f"a {type(message).__name__} instead of a work item", hint="choose another one")
        return cls(message, {digest_of(attachment): attachment for attachment in attachments})

    @property
    def digests(self) -> tuple[Digest, ...]:
        """The digests of the blobs that the operations need, each once."""
        return blobs_of(self.item.ops)

    @property
    def missing(self) -> tuple[Digest, ...]:
        """The digests of needed blobs that are not present."""
        return tuple(digest for digest in self.digests if digest not in self.blobs)

    @property
    def earlier_refs(self) -> tuple[int, ...]:
        """The values that the operations take from an earlier stage of the session, each once."""
        created: set[int] = set()
        earlier: dict[int, None] = {}
        for op in self.item.ops:
            earlier |= dict.fromkeys(ref for ref in op.uses if ref not in created)
            if isinstance(op, Value | Data | Seeds | Struct | Select | Call):
                created.add(op.ref)
        return tuple(earlier)

    def with_files(self, directory: Path) -> WorkBundle:
        """Return the bundle with missing blobs read from files named by their digests, as far as these exist.

        Raises:
            ConfigError: the directory does not exist, a file cannot be read, or it holds another blob.
        """
        if not directory.is_dir():
            raise ConfigError(f"the directory {directory} does not exist", hint="correct --blobs")
        loaded = {digest: _read(directory / digest) for digest in self.missing if (directory / digest).exists()}
        return WorkBundle(self.item, {**self.blobs, **loaded}, frozenset(loaded))


def save_blobs(directory: Path, blobs: Iterable[Buffer]) -> None:
    """Write blobs to files named by their digests; create the directory if it does not exist.

    Raises:
        ConfigError: the directory cannot be written to.
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
        raise ConfigError(f"{file} does not hold the blob of its name", hint="remove it from the directory")
    return content
