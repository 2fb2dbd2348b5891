"""Blob routing: which blobs each silo gets, and how: with its work item, in a broadcast to the cohort, or directly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedbroker.session.roster import Member
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Digest, Op, Value

__all__ = ["BlobCacheIndex", "Shipment", "needs", "ship"]

REMEMBERED = 4096
"""Number of digests remembered for each silo. A blob whose digest is forgotten too early is only sent once more."""


@dataclass(slots=True)
class BlobCacheIndex:
    """The blobs that each silo probably has in its cache: it used them once, and asks for any that it lost."""

    _by_silo: dict[str, tuple[str, OrderedDict[Digest, None]]] = field(default_factory=dict)

    def has(self, member: Member, digest: Digest) -> bool:
        """Return whether this incarnation of the silo should still have the blob."""
        incarnation, digests = self._by_silo.get(member.name, ("", OrderedDict()))
        return incarnation == member.incarnation and digest in digests

    def add(self, member: Member, digests: Iterable[Digest]) -> None:
        """Add blobs that the silo has used. Forgets the blobs of an earlier incarnation."""
        incarnation, seen = self._by_silo.get(member.name, ("", OrderedDict()))
        if incarnation != member.incarnation:
            seen = OrderedDict()
            self._by_silo[member.name] = (member.incarnation, seen)
        for digest in digests:
            seen[digest] = None
            seen.move_to_end(digest)
        while len(seen) > REMEMBERED:
            seen.popitem(last=False)

    def forget(self, member: Member, digests: Iterable[Digest]) -> None:
        """Forget blobs that the silo asked for."""
        incarnation, seen = self._by_silo.get(member.name, ("", OrderedDict()))
        if incarnation == member.incarnation:
            for digest in digests:
                seen.pop(digest, None)


@dataclass(frozen=True, slots=True)
class Shipment:
    """The routes of one stage's blobs.

    Attributes:
        inline: for each silo, the blobs sent with its work item.
        broadcast: the blobs sent once to the whole cohort.
        direct: for each silo, the blobs sent to it alone.
    """

    inline: Mapping[str, tuple[Digest, ...]]
    broadcast: tuple[Digest, ...]
    direct: Mapping[str, tuple[Digest, ...]]

    def on_bulk_lane(self, silo: str, lacking: Iterable[Digest]) -> tuple[Digest, ...]:
        """Return the lacking blobs that a silo has to wait for: all that are not sent with its work item."""
        mine = {*self.broadcast, *self.direct[silo]} - {*self.inline[silo]}
        return tuple(digest for digest in lacking if digest in mine)


def needs(program: Iterable[Op]) -> tuple[Digest, ...]:
    """Return the digests that the operations name, each once."""
    return tuple(dict.fromkeys(op.blob for op in program if isinstance(op, Value)))


def ship(
    programs: Mapping[str, Sequence[Op]],
    sizes: Mapping[Digest, int],
    members: Sequence[Member],
    known: BlobCacheIndex,
    limits: Limits,
) -> Shipment:
    """Choose the routes of one stage's blobs.

    Small blobs are sent with the work item. A large blob is broadcast if more than one silo lacks it, else sent to that
    silo alone.
    """
    lacking = {m.name: [d for d in needs(programs[m.name]) if not known.has(m, d)] for m in members}
    inline = {silo: _riders(digests, sizes, limits) for silo, digests in lacking.items()}
    wanted_by: dict[Digest, list[str]] = {}
    for silo, digests in lacking.items():
        for digest in digests:
            if digest not in inline[silo]:
                wanted_by.setdefault(digest, []).append(silo)
    return Shipment(
        inline=inline,
        broadcast=tuple(digest for digest, silos in wanted_by.items() if len(silos) > 1),
        direct={silo: tuple(d for d, silos in wanted_by.items() if silos == [silo]) for silo in lacking},
    )


def _riders(digests: Iterable[Digest], sizes: Mapping[Digest, int], limits: Limits) -> tuple[Digest, ...]:
    """Return the small blobs to send with a work item, as many as fit into it."""
    riders: list[Digest] = []
    room = limits.inline_total
    for digest in digests:
        if sizes[digest] <= min(limits.inline_blob, room):
            riders.append(digest)
            room -= sizes[digest]
    return tuple(riders)
