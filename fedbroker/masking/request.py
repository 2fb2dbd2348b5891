"""Masking requests: which outputs of a work item a silo masks, and with which other silos.

A stage has one request for all of its silos. It is a blob, so that it travels as other blobs do, sealed where they are.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from fedbroker.errors import MaskingError
from fedbroker.masking.decoding import decoded
from fedbroker.masking.members import CHANGED, MAX_MEMBERS, KeyBytes, Member, Members
from fedbroker.masking.pairwise import Occasion
from fedbroker.masking.rings import Ring
from fedbroker.trust.keys import joined
from fedbroker.wire.blobs import Buffer

__all__ = ["MaskingRequest", "decode_request", "encode_request"]

Count = Annotated[int, Meta(ge=0)]


class MaskingRequest(msgspec.Struct, frozen=True):
    """The masked sums of one client stage.

    Attributes:
        members: the silos over whose values the sums are formed.
        clients: the number of clients of each member in the session, in the members' order.
        dropouts: True if members may drop out (t-of-n), False if all must reply (n-of-n).
        work: the digest of the session's work so far and of this stage; see :mod:`fedbroker.masking.work`.
        outputs: for each output of the work item, the rings of its tensors, left to right; None for an output that
            leaves without a mask.

    Raises:
        MaskingError: it has not one number of clients for each member.
    """

    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]
    clients: Annotated[tuple[Count, ...], Meta(max_length=MAX_MEMBERS)]
    dropouts: bool
    work: KeyBytes
    outputs: tuple[tuple[Ring, ...] | None, ...]

    def __post_init__(self) -> None:
        if len(self.clients) != len(self.members):
            raise MaskingError("a masked sum names no number of clients for each member", hint=CHANGED)

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The rings of all masked tensors, in the order in which they are masked."""
        return tuple([ring for rings in self.outputs if rings is not None for ring in rings])

    def checked_members(self) -> Members:
        """Return the members.

        Raises:
            MaskingError: they are too few or too many, or not distinct and sorted.
        """
        return Members(self.members)

    def check_clients(self, silo: str, clients: int) -> None:
        """Check that a silo has as many clients as the request says: each silo vouches for its own number.

        Otherwise a coordinator could claim clients for silos that have none, whose values hide nothing.

        Args:
            silo: the silo's name.
            clients: the number of clients for which it computes.

        Raises:
            MaskingError: it has another number.
        """
        claimed = dict(zip([member.silo for member in self.members], self.clients, strict=True)).get(silo)
        if claimed != clients:
            raise MaskingError(
                f"a masked sum names {claimed} clients of silo {silo!r}, which has {clients}", hint=CHANGED
            )

    def contributors(self) -> frozenset[str]:
        """Return the names of the members that have clients: only their values can hide each other."""
        return frozenset([member.silo for member, clients in zip(self.members, self.clients, strict=True) if clients])

    def occasion(self, session_id: str, stage: int) -> Occasion:
        """Return the occasion of these masks: another session, stage, member, work or ring gives other masks."""
        fields = [str(clients).encode() for clients in self.clients]
        for rings in self.outputs:
            fields.append(b"clear" if rings is None else b"masked")
            fields += [f"{ring.width} {ring.modulus}".encode() for ring in rings or ()]
        mode = b"dropouts" if self.dropouts else b"all"
        work = hashlib.sha256(joined(b"fedbroker masked work 1", self.work, mode, *fields)).digest()
        return Occasion(session_id, stage, self.checked_members().digest, work)


def encode_request(request: MaskingRequest) -> bytes:
    """Return a request as a blob."""
    return msgspec.msgpack.encode(request)


def decode_request(blob: Buffer) -> MaskingRequest:
    """Return the request of a blob.

    Raises:
        MaskingError: the blob is no request.
    """
    return decoded(blob, MaskingRequest, "a masking request")
