"""The digest of a session's work: silos that are given different work have masks that do not cancel.

Otherwise a coordinator could have all silos but one add zeros, and read that silo's value in the sum. The digest
covers every operation of the session so far and the content of every blob that they name, except values dealt to
single clients: those differ from silo to silo (docs/secure-sums.md says what follows).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from fedbroker.runtime.values import is_dealt
from fedbroker.trust.keys import joined
from fedbroker.wire.blobs import Buffer, content_digest
from fedbroker.wire.messages import Digest, Op, Value

__all__ = ["NO_WORK", "contents_of", "work_digest"]

NO_WORK = bytes(32)
"""The digest of a session that has no work yet."""


def contents_of(blobs: Mapping[Digest, Buffer]) -> dict[Digest, bytes | None]:
    """Return the full digest of each blob of a stage, or None for values that are dealt to single clients.

    That is what :func:`work_digest` takes, at the coordinator and at each silo.
    """
    return {digest: None if is_dealt(blob) else content_digest(blob) for digest, blob in blobs.items()}


def work_digest(earlier: bytes, ops: Sequence[Op], contents: Mapping[Digest, bytes | None]) -> bytes:
    """Return the digest of a session's work after one more stage, 32 bytes of SHA-256.

    Args:
        earlier: the digest before that stage, or :data:`NO_WORK`.
        ops: the stage's operations at any of its silos.
        contents: for each blob that they name, a digest of its content of at least 32 bytes; None for a value that is
            dealt to single clients. The digest that the operation itself has is too short for this purpose.
    """
    fields: list[bytes] = []
    for op in ops:
        if isinstance(op, Value):
            content = contents[op.blob]
            fields.append(joined(b"value", str(op.ref).encode(), b"dealt" if content is None else content))
        else:
            fields.append(joined(b"op", msgspec.msgpack.encode(op)))
    return hashlib.sha256(joined(b"fedbroker work 1", earlier, *fields)).digest()
