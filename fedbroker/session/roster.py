"""The silos of a cohort: which are present, which blobs each of them has, and how to send the blobs that they lack.

Plain state with the time passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from fedbroker.lru import LruMap
from fedbroker.text import count_text
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Accepted, Announce, Digest, Leave, Rejected, Source

__all__ = ["BlobCacheIndex", "Member", "Roster", "Shipment", "admit", "ship"]

MISSED_HEARTBEATS: Final = 2
"""Heartbeats after its last announcement for which a silo counts as present: one announcement may be late or lost, for
example while the broker elects a leader, without a change of the membership."""
MIN_GRACE_SECONDS: Final = 2.0
"""Seconds by which an announcement may be late if heartbeats are shorter than that: a busy machine or a reconnection
delays messages by a second or so, however short the heartbeat is."""

RETRY_DELAY: Final = (30.0, 90.0)
"""Range of seconds from which a silo picks its retry delay if the cohort is full: another silo may leave by then. A
range, so that rejected silos do not all retry at once."""
PERMANENT_RETRY_DELAY: Final = (900.0, 2700.0)
"""The same if an operator has to change something first, such as the silo's version, which takes minutes or hours."""


@dataclass(frozen=True, slots=True)
class Member:
    """A silo as it announced itself; the argument of ``eligible`` and ``select`` rules.

    Attributes:
        name: its name, unique in the cohort.
        incarnation: id that differs for each start of the silo's process.
        sources: its data sources by name.
        version: version of its software.
        capabilities: features that it supports beyond the first version of the protocol.
        mask_key: its public key for masked sums, as hexadecimal digits; empty if it takes part in none.
        mask_signature: its signature over that key, as hexadecimal digits.
    """

    name: str
    incarnation: str
    sources: Mapping[str, Source] = field(default_factory=dict[str, Source])
    version: str = ""
    capabilities: tuple[str, ...] = ()
    mask_key: str = ""
    mask_signature: str = ""


@dataclass(slots=True)
class _KnownSilo:
    member: Member
    until: float
    left: bool = False


@dataclass(slots=True)
class Roster:
    """The silos of one cohort, present and missing. Times are seconds on any one monotonic clock."""

    _seen: dict[str, _KnownSilo] = field(default_factory=dict[str, _KnownSilo])

    def __len__(self) -> int:
        """Return the number of known silos, present or missing."""
        return len(self._seen)

    def announced(self, message: Announce, now: float) -> bool:
        """Record an announcement. The silo counts as missing two heartbeats after its last one.

        Returns:
            True if the silo is new here: never seen, another incarnation, or present again after it was missing.
        """
        seen = self._seen.get(message.silo)
        until = now + max(MISSED_HEARTBEATS * message.heartbeat, message.heartbeat + MIN_GRACE_SECONDS)
        member = Member(
            message.silo,
            message.incarnation,
            message.sources,
            message.version,
            message.capabilities,
            message.mask_key,
            message.mask_signature,
        )
        self._seen[message.silo] = _KnownSilo(member, until)
        return seen is None or seen.left or seen.until < now or seen.member.incarnation != message.incarnation

    def knows(self, message: Announce) -> bool:
        """Return whether this incarnation has announced itself before."""
        seen = self._seen.get(message.silo)
        return seen is not None and seen.member.incarnation == message.incarnation

    def left(self, message: Leave) -> bool:
        """Record that a silo leaves. Returns False, without effect, for a message of an earlier incarnation."""
        seen = self._seen.get(message.silo)
        if seen is None or seen.left or seen.member.incarnation != message.incarnation:
            return False
        seen.left = True
        return True

    def present(self, now: float) -> tuple[Member, ...]:
        """Return the present silos, sorted by name."""
        # A copy, made in one step, because metrics are read from another thread; so below.
        present = [seen.member for seen in list(self._seen.values()) if not seen.left and seen.until >= now]
        return tuple(sorted(present, key=attrgetter("name")))

    def missing(self, now: float) -> tuple[str, ...]:
        """Return the names of the silos that were present once and are not now."""
        return tuple(sorted(seen.member.name for seen in list(self._seen.values()) if seen.left or seen.until < now))

    def forget_longest_missing(self, now: float) -> bool:
        """Forget the silo that has been missing for the longest time; return False if all are present."""
        missing = [(seen.until, name) for name, seen in self._seen.items() if seen.left or seen.until < now]
        if not missing:
            return False
        del self._seen[min(missing)[1]]
        return True


def admit(
    announcement: Announce, coordinator: str, *, version: str, members: int, max_silos: int
) -> Accepted | Rejected:
    """Return the answer to an incarnation's first announcement.

    Args:
        announcement: the silo's announcement.
        coordinator: our own coordinator_id.
        version: our own; a silo of another version is admitted if the first two numbers are the same.
        members: number of silos that are known here already.
        max_silos: largest number of silos.
    """
    if not _are_compatible(announcement.version, version):
        return _rejected(
            announcement,
            coordinator,
            f"its version {announcement.version} does not fit the coordinator's {version}",
            permanent=True,
        )
    if members >= max_silos:
        return _rejected(
            announcement, coordinator, f"the coordinator knows {count_text(max_silos, 'silo')} already", permanent=False
        )
    return Accepted(coordinator, announcement.silo, announcement.incarnation)


def _rejected(announcement: Announce, coordinator: str, reason: str, *, permanent: bool) -> Rejected:
    return Rejected(
        coordinator,
        announcement.silo,
        announcement.incarnation,
        reason,
        PERMANENT_RETRY_DELAY if permanent else RETRY_DELAY,
        permanent,
    )


def _are_compatible(silo_version: str, coordinator_version: str) -> bool:
    """Return whether two versions are compatible. A source tree has no version and is always compatible."""
    numbers = [version.split(".")[:2] for version in (silo_version, coordinator_version)]
    return not all(version[:1].isdigit() for version in (silo_version, coordinator_version)) or numbers[0] == numbers[1]


MAX_DIGESTS: Final = 4096
"""Number of digests remembered for each silo: more than the blobs of a hundred rounds, in less than a megabyte. A blob
whose digest is forgotten too early is sent once more."""


@dataclass(slots=True)
class BlobCacheIndex:
    """The blobs that each silo probably has in its cache: it used them once, and asks for any that it lost."""

    _by_silo: dict[str, tuple[str, LruMap[Digest, None]]] = field(
        default_factory=dict[str, tuple[str, LruMap[Digest, None]]]
    )

    def has(self, member: Member, digest: Digest) -> bool:
        """Return whether this incarnation of the silo should still have the blob."""
        incarnation, digests = self._by_silo.get(member.name, ("", ()))
        return incarnation == member.incarnation and digest in digests

    def add(self, member: Member, digests: Iterable[Digest]) -> None:
        """Add blobs that the silo has used. Forgets the blobs of an earlier incarnation."""
        incarnation, seen = self._by_silo.get(member.name, ("", None))
        if seen is None or incarnation != member.incarnation:
            seen = LruMap[Digest, None](MAX_DIGESTS)
            self._by_silo[member.name] = (member.incarnation, seen)
        for digest in digests:
            seen[digest] = None

    def forget(self, member: Member, digests: Iterable[Digest]) -> None:
        """Forget blobs that the silo asked for."""
        incarnation, seen = self._by_silo.get(member.name, ("", None))
        if seen is not None and incarnation == member.incarnation:
            for digest in digests:
                seen.pop(digest, None)


@dataclass(frozen=True, slots=True)
class Shipment:
    """The routes of one stage's blobs.

    Attributes:
        inline: for each silo, the blobs sent with its work item.
        broadcast: the blobs sent once to the whole cohort.
        direct: for each silo, the blobs sent to it alone.
        bulk: for each silo, the blobs that it may wait for, because they are broadcast or sent to it alone.
    """

    inline: Mapping[str, Sequence[Digest]]
    broadcast: Sequence[Digest]
    direct: Mapping[str, Sequence[Digest]]
    bulk: Mapping[str, Sequence[Digest]]


def ship(
    needs: Mapping[str, Sequence[Digest]],
    sizes: Mapping[Digest, int],
    members: Sequence[Member],
    blob_index: BlobCacheIndex,
    limits: Limits,
) -> Shipment:
    """Choose the routes of one stage's blobs.

    Small blobs are sent with the work item. A large blob is broadcast if more than one silo lacks it, else sent to that
    silo alone.

    Args:
        needs: for each silo, the digests that its work item names, each once.
        sizes: bytes of each blob.
        members: the silos that are asked.
        blob_index: the blobs that each silo has.
        limits: limits on blobs in a work item.
    """
    inline: dict[str, list[Digest]] = {}
    direct: dict[str, list[Digest]] = {}
    bulk: dict[str, list[Digest]] = {}
    lacked_by: dict[Digest, list[str]] = {}  # the blobs that do not fit into a work item
    for member in members:
        room = limits.inline_total
        riders = inline[member.name] = []
        direct[member.name] = []
        for digest in needs[member.name]:
            if blob_index.has(member, digest):
                continue
            if sizes[digest] <= min(limits.inline_blob, room):
                riders.append(digest)
                room -= sizes[digest]
            else:
                lacked_by.setdefault(digest, []).append(member.name)
    broadcast: list[Digest] = []
    for digest, silos in lacked_by.items():
        (broadcast if len(silos) > 1 else direct[silos[0]]).append(digest)
    for silo, riders in inline.items():
        # A broadcast reaches a silo that has the blob, too: it need not ask for it if it has lost it since.
        sent = {*broadcast, *direct[silo]} - {*riders}
        bulk[silo] = [digest for digest in needs[silo] if digest in sent]
    return Shipment(inline, broadcast, direct, bulk)
