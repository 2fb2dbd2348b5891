"""Pairwise masks: each two members add and subtract the same mask, so that all masks cancel in the sum over all.

Bonawitz et al. (CCS 2017), section 4.1: member u sends x[u] + Σ(v > u) PRG(s[u,v]) - Σ(v < u) PRG(s[u,v]). As long as
two members keep their keys, all that is learnt from every message but theirs is the sum of the two values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fedbroker.errors import MaskingError
from fedbroker.masking.members import CHANGED, MaskKey
from fedbroker.masking.rings import Elements, Ring
from fedbroker.masking.streams import Stream, apply_masks
from fedbroker.trust.keys import derived, joined

__all__ = ["Masked", "Occasion", "add", "add_pair_masks", "apply_streams", "own_stream", "pair_stream", "pair_streams"]

Masked = list[tuple[Ring, Elements]]
"""The values of one silo, or a sum of them: elements of a ring for each masked tensor, in the plan's order."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """The use of a mask: two occasions never have the same masks.

    Attributes:
        session_id: id of the session.
        stage: number of the client stage.
        members: digest of the members (:attr:`fedbroker.masking.members.Members.digest`), or of those that share.
        work: digest of the work that is computed.
    """

    session_id: str
    stage: int
    members: bytes
    work: bytes

    def as_bytes(self) -> bytes:
        """Return an unambiguous encoding."""
        return joined(self.session_id.encode(), str(self.stage).encode(), self.members, self.work)


def pair_stream(own: MaskKey, other: bytes, occasion: Occasion) -> Stream:
    """Return the stream that two members share on one occasion.

    Args:
        own: the mask key of one of the two.
        other: the public mask key of the other.
        occasion: the occasion.

    Raises:
        MaskingError: the public key is not usable.
    """
    return Stream(own.key_with(other, joined(b"pair", occasion.as_bytes())))


def own_stream(seed: bytes, occasion: Occasion) -> Stream:
    """Return the stream of a member's mask of its own, from the seed that it has dealt."""
    return Stream(derived(seed, b"mask of its own", occasion.as_bytes()))


def add_pair_masks(values: Masked, silo: str, peers: Sequence[str], stream_with: Callable[[str], Stream]) -> None:
    """Add a member's masks with its peers to its values, in place.

    Args:
        values: the member's own values.
        silo: its name.
        peers: names of the other members with which it shares a mask.
        stream_with: returns the stream that it shares with a peer.

    Raises:
        MaskingError: it is among its own peers.
    """
    apply_streams(values, pair_streams(silo, peers, stream_with))


def pair_streams(silo: str, peers: Sequence[str], stream_with: Callable[[str], Stream]) -> list[tuple[Stream, bool]]:
    """Return the streams that a member shares with its peers, each with True if the member subtracts it.

    Raises:
        MaskingError: it is among its own peers.
    """
    if silo in peers:
        raise MaskingError(f"silo {silo!r} is twice in a masked sum", hint=CHANGED)
    return [(stream_with(peer), peer < silo) for peer in peers]


def apply_streams(values: Masked, streams: Sequence[tuple[Stream, bool]]) -> None:
    """Add the masks of streams to values, in place and in their order.

    Args:
        values: the values.
        streams: the streams, each with True if its masks are subtracted.
    """
    for ring, elements in values:
        apply_masks(ring, elements, streams)


def add(total: Masked, part: Masked) -> None:
    """Add the values of one member to a sum, in place.

    Raises:
        MaskingError: they have other rings or sizes than the sum.
    """
    if [(ring, elements.size) for ring, elements in total] != [(ring, elements.size) for ring, elements in part]:
        raise MaskingError("a silo's masked values have another size than those of the others", hint=_SHAPES)
    for (ring, elements), (_, added) in zip(total, part, strict=True):
        ring.add(elements, added)


_SHAPES: Final = "sum values that have the same shape at every silo"
