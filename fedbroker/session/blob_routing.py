"""Which blobs travel to which silo, and how: beside the work item, once to the whole cohort, or to one silo.

Plain functions and state; imports wire only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedbroker.session.roster import Member
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Digest, Op, Value

__all__ = ["BlobCacheIndex", "Shipment", "needs", "ship"]

REMEMBERED = 4096
"""How many digests are remembered for each silo; one forgotten too early is only sent again."""


@dataclass(slots=True)
class BlobCacheIndex:
    """What each silo was sent and has used: an optimist's guess, since a silo that lost a blob asks for it."""

    _by_silo: dict[str, tuple[str, OrderedDict[Digest, None]]] = field(default_factory=dict)

    def has(self, member: Member, digest: Digest) -> bool:
        """Whether this incarnation of the silo should still have the blob."""
        incarnation, digests = self._by_silo.get(member.name, ("", OrderedDict()))
        return incarnation == member.incarnation and digest in digests

    def add(self, member: Member, digests: Iterable[Digest]) -> None:
        """The silo has used these; what an earlier incarnation had is forgotten."""
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
        """The silo said that it lacks these."""
        incarnation, seen = self._by_silo.get(member.name, ("", OrderedDict()))
        if incarnation == member.incarnation:
            for digest in digests:
                seen.pop(digest, None)


@dataclass(frozen=True, slots=True)
class Shipment:
    """How the blobs of one stage travel.

    Attributes:
        inline: for each silo, those that ride with its work item.
        broadcast: those that go to the whole cohort, once.
        direct: for each silo, those that go to it alone.
    """

    inline: Mapping[str, tuple[Digest, ...]]
    broadcast: tuple[Digest, ...]
    direct: Mapping[str, tuple[Digest, ...]]

    def on_bulk_lane(self, silo: str, lacking: Iterable[Digest]) -> tuple[Digest, ...]:
        """Of what a silo lacks, what it is to wait for: all but what rides with its work item."""
        mine = {*self.broadcast, *self.direct[silo]} - {*self.inline[silo]}
        return tuple(digest for digest in lacking if digest in mine)


def needs(program: Iterable[Op]) -> tuple[Digest, ...]:
    """The digests that a program names, each once."""
    return tuple(dict.fromkeys(op.blob for op in program if isinstance(op, Value)))


def ship(
    programs: Mapping[str, Sequence[Op]],
    sizes: Mapping[Digest, int],
    members: Sequence[Member],
    known: BlobCacheIndex,
    limits: Limits,
) -> Shipment:
    """Decide for one stage.

    Small blobs ride along; a large one goes to the whole cohort when more than one silo lacks it, else to the one.
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
    """Of what a silo lacks, the small ones that ride with its work item, as long as there is room."""
    riders: list[Digest] = []
    room = limits.inline_total
    for digest in digests:
        if sizes[digest] <= min(limits.inline_blob, room):
            riders.append(digest)
            room -= sizes[digest]
    return tuple(riders)
