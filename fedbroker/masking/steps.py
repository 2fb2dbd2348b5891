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
refused     silo             :class:`Refusal`: in place of an answer to a notice
=========== ================ =====================================================================================
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from fedbroker.masking.decoding import decoded
from fedbroker.masking.members import SignatureBytes
from fedbroker.masking.offers import Offer
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import Name

__all__ = ["MAX_REASON", "Refusal", "Sharing", "Signatures", "SurvivorNames", "decode_step", "encode_step"]

MAX_REASON: Final = 500
"""The most characters of a refusal's reason, and of its hint."""

Sharing: TypeAlias = dict[Name, Offer]
SurvivorNames: TypeAlias = tuple[Name, ...]
Signatures: TypeAlias = dict[Name, SignatureBytes]
Words: TypeAlias = Annotated[str, Meta(max_length=MAX_REASON)]


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A silo's refusal of a notice.

    Attributes:
        step: of the notice.
        reason: one line; it is about the notice and the silo's policy, never about data.
        hint: what to do about it; may be empty.
    """

    step: Literal["sharing", "survivors", "unmask"]
    reason: Words
    hint: Words = ""


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
