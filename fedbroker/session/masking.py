"""Masked sums in a session: the members and the request of a stage, and the sum of its silos' masked values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fedbroker.errors import MaskingError
from fedbroker.masking.members import MIN_MEMBERS, Members, check_members
from fedbroker.masking.members import Member as MaskMember
from fedbroker.masking.pairwise import Masked
from fedbroker.masking.request import MaskingRequest
from fedbroker.masking.results import Shape, add_packed, masked_parts, read_masked, write_masked
from fedbroker.masking.rings import Ring
from fedbroker.session.roster import Member
from fedbroker.text import count_text
from fedbroker.trust.keys import Public
from fedbroker.wire.blobs import Buffer

__all__ = ["MaskedTotal", "StageMasking", "mask_members", "masking_request"]


class MaskedTotal:
    """The sum of the masked values of a stage's silos: one vector, however many silos reply.

    Args:
        rings: the ring of each masked tensor.

    Attributes:
        silos: the silos whose values are added.
    """

    def __init__(self, rings: Sequence[Ring]) -> None:
        self._rings = tuple(rings)
        self._shapes: tuple[Shape, ...] | None = None
        self._first = ""
        self._total: Masked | None = None
        self.silos: list[str] = []

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each tensor."""
        assert self._shapes is not None, "no silo has replied"
        return self._shapes

    @property
    def elements(self) -> Masked:
        """The sum so far; without masks once they have cancelled or are removed."""
        assert self._total is not None, "no silo has replied"
        return self._total

    def check(self, blob: Buffer) -> tuple[Shape, ...]:
        """Return the shapes of a silo's masked values; may be called in a thread.

        Raises:
            MaskingError: they are no values of these rings.
        """
        shapes, parts = masked_parts(blob, self._rings)
        for ring, part in zip(self._rings, parts, strict=True):
            add_packed(ring, None, part)
        return shapes

    def expect(self, silo: str, shapes: tuple[Shape, ...]) -> None:
        """Compare a silo's shapes with those of the silo that replied first.

        Raises:
            MaskingError: they differ; names the first silo.
        """
        if self._shapes is None:
            self._shapes, self._first = shapes, silo
        elif shapes != self._shapes:
            raise MaskingError(
                f"its masked values have the shapes {_text(shapes)}, and those of silo {self._first!r} have "
                f"{_text(self._shapes)}",
                hint="sum values that have the same shape at every silo",
            )

    def add(self, silo: str, blob: Buffer) -> None:
        """Add a silo's values, which were checked; may be called in a thread, for one silo at a time."""
        shapes, parts = masked_parts(blob, self._rings)
        if self._total is None:
            sizes = [math.prod(shape) for shape in shapes]
            self._total = [(ring, np.zeros(size, ring.carrier)) for ring, size in zip(self._rings, sizes, strict=True)]
        for (ring, total), part in zip(self._total, parts, strict=True):
            add_packed(ring, total, part)
        self.silos.append(silo)

    def packed(self) -> bytes:
        """Return shapes and sum as bytes, for :meth:`restore`."""
        return write_masked(self.shapes, self.elements)

    def restore(self, packed: Buffer) -> None:
        """Replace the sum by another one.

        Raises:
            MaskingError: the bytes are no sum in these rings.
        """
        self._shapes, self._total = read_masked(packed, self._rings)


@dataclass(frozen=True, slots=True)
class StageMasking:
    """The masked sums of a client stage.

    Attributes:
        outputs: for each output of the stage's work items, the rings of its tensors; None for one that is not masked.
        work: the digest of the session's work up to this stage; see :mod:`fedbroker.masking.work`.
        check_shapes: checks the shapes of a silo's masked tensors. Raises a ``WireError`` if they are not those of the
            stage's values.
        total: gets the sum over the participants. If the stage fails, what it got is of no use.
    """

    outputs: tuple[tuple[Ring, ...] | None, ...]
    work: bytes
    check_shapes: Callable[[Sequence[Shape]], None] = lambda _: None
    total: MaskedTotal = field(init=False)

    def __post_init__(self) -> None:
        rings = [ring for rings in self.outputs if rings is not None for ring in rings]
        object.__setattr__(self, "total", MaskedTotal(rings))


def mask_members(members: Sequence[Member], cohort: str, keys: Mapping[str, Public]) -> Members:
    """Return silos as the members of a masked sum, with their keys checked.

    Args:
        members: the silos.
        cohort: the cohort's name.
        keys: the public keys of the silos that the coordinator knows.

    Raises:
        MaskingError: they are too few, or a silo takes part in no masked sums, is not known, or has not signed its
            mask key; names the silos.
    """
    without = [member.name for member in members if not (member.mask_key and member.mask_signature)]
    if without:
        silos = f"silo{'s' * (len(without) > 1)} {', '.join(map(repr, without))}"
        raise MaskingError(
            f"{silos} take{'s' * (len(without) == 1)} part in no masked sums: no mask key was announced",
            hint="install the cohort's roster there (roster, roster_key), or leave such silos out (eligible=)",
        )
    if len(members) < MIN_MEMBERS:
        raise MaskingError(
            f"a masked sum over {count_text(len(members), 'silo')}, where at least {MIN_MEMBERS} are needed",
            hint=f"wait for more silos: min_silos={MIN_MEMBERS} or more",
        )
    unknown = [member.name for member in members if member.name not in keys]
    if unknown:
        raise MaskingError(f"the public key of silo {unknown[0]!r} is not known here", hint=_KEYS)
    found = Members(tuple([_mask_member(member) for member in sorted(members, key=lambda member: member.name)]))
    check_members(found, cohort, keys)
    return found


def masking_request(
    members: Members, clients: Mapping[str, int], masking: StageMasking, *, dropouts: bool
) -> MaskingRequest:
    """Return the request of a stage, the same for all of its silos.

    Args:
        members: the silos that are asked.
        clients: the number of clients of each.
        masking: the masked sums of the stage.
        dropouts: True if silos may drop out.
    """
    counts = tuple([clients[name] for name in members.names])
    return MaskingRequest(members.all, counts, dropouts, masking.work, masking.outputs)


def _mask_member(member: Member) -> MaskMember:
    return MaskMember(
        member.name, member.incarnation, bytes.fromhex(member.mask_key), bytes.fromhex(member.mask_signature)
    )


def _text(shapes: Sequence[Shape]) -> str:
    """Return shapes in a line."""
    more = ", …" if len(shapes) > _MAX_SHAPES else ""
    return ", ".join(str(list(shape)) for shape in shapes[:_MAX_SHAPES]) + more


_MAX_SHAPES: Final = 4  # in an error
_KEYS: Final = "add it to the coordinator's keys (keys=), as `fedbroker admin enroll` writes them"
