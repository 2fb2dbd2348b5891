"""Contents of the messages of a masked sum from which silos may drop out, as msgpack.

Each is the attachment of a :class:`fedbroker.wire.messages.MaskReply` or ``MaskNotice``:

=========== ================ =====================================================================================
step        sent by          content
=========== ================ =====================================================================================
offer       silo             :class:`~fedbroker.masking.offers.Offer`
sharing     coordinator      :data:`Sharing`: the offers of all that share the stage, with the holder's own shares
survivors   coordinator      :data:`SurvivorNames`: the list to be signed
signature   silo             bytes: the silo's signature under that list
unmask      coordinator      :data:`Signatures`: those of a threshold of survivors
shares      silo             :class:`~fedbroker.masking.survivors.Revealed`
=========== ================ =====================================================================================
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import msgspec

from fedbroker.masking.decoding import decoded
from fedbroker.masking.members import SignatureBytes
from fedbroker.masking.offers import Offer
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import Name

__all__ = ["Sharing", "Signatures", "SurvivorNames", "decode_step", "encode_step"]

Sharing: TypeAlias = dict[Name, Offer]
SurvivorNames: TypeAlias = tuple[Name, ...]
Signatures: TypeAlias = dict[Name, SignatureBytes]

T = TypeVar("T")


def encode_step(content: object) -> bytes:
    """Return the content of a step as bytes."""
    return msgspec.msgpack.encode(content)


def decode_step(content: Buffer, kind: type[T]) -> T:
    """Return the content of a step.

    Args:
        content: the bytes.
        kind: the type of that step's content.

    Raises:
        MaskingError: the bytes are no such content.
    """
    return decoded(content, kind, "a message of a masked sum")
