"""A silo's half of masked sums: what it checks, and what it lets out, once.

The coordinator is not trusted here. Each method either does its step or raises :class:`MaskingError`.
:mod:`fedbroker.masking.dropout` has the part of sums from which members may drop out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Final

from fedbroker.errors import MaskingError
from fedbroker.masking.dropout import AGAIN, DropoutSum, Own
from fedbroker.masking.members import CHANGED, MaskKey, Member, Members, check_members
from fedbroker.masking.pairwise import Masked, Occasion, add_pair_masks, pair_stream
from fedbroker.trust.keys import Identity, Public

__all__ = ["MAX_OCCASIONS", "SiloMasking"]

MAX_OCCASIONS: Final = 1 << 17
"""Occasions for which one mask key is used: more than one each second for a day, about 16 MB of memory.

They are never forgotten while the key lives: a silo that forgot one would mask again for it.
"""


class SiloMasking:
    """The masked sums of one incarnation of a silo.

    Args:
        cohort: the cohort's name.
        silo: the silo's name.
        incarnation: of its process.
        identity: its key for signatures.
        min_members: the fewest silos with clients over which it takes part in a sum, if it has clients itself.
    """

    def __init__(self, cohort: str, silo: str, incarnation: str, identity: Identity, min_members: int) -> None:
        self._cohort, self._silo, self._identity, self._min_members = cohort, silo, identity, min_members
        self._mask_key = MaskKey()
        self._used: set[bytes] = set()
        self.member: Final = Member.signed(cohort, silo, incarnation, self._mask_key.public, identity)

    def check(self, members: Members, occasion: Occasion, roster: Mapping[str, Public], contributors: Set[str]) -> None:
        """Check that this silo can mask for an occasion; the occasion stays free.

        Args:
            members: all members, this silo among them.
            occasion: the occasion, of these members.
            roster: the public keys of the cohort's silos.
            contributors: names of the members that have clients.

        Raises:
            MaskingError: a member is invented, too few of them have clients, or this silo has masked for this occasion
                before.
        """
        if self.member not in members.all:
            raise MaskingError("this silo, or its present mask key, is not among the members", hint=AGAIN)
        if occasion.members != members.digest:
            raise MaskingError("a masked sum is for other members than those it names", hint=CHANGED)
        self._own(roster).check_hidden(members.names, contributors)
        check_members(members, self._cohort, roster)
        if self.has_masked(occasion):
            raise MaskingError("this silo has masked for this stage before", hint=AGAIN)
        if len(self._used) >= MAX_OCCASIONS:
            raise MaskingError(
                f"this silo has used its mask key for {MAX_OCCASIONS} sums", hint="restart the silo: it makes a new key"
            )

    def has_masked(self, occasion: Occasion) -> bool:
        """Return whether this silo has masked for these members and this stage before, with this work or other work."""
        return _taken(occasion) in self._used

    def add_masks(
        self,
        values: Masked,
        members: Members,
        occasion: Occasion,
        roster: Mapping[str, Public],
        contributors: Set[str],
    ) -> None:
        """Add this silo's masks to its values, in place, for a sum over all members.

        Args:
            values: the silo's own values.
            members: all members, this silo among them.
            occasion: the occasion, of these members.
            roster: the public keys of the cohort's silos.
            contributors: names of the members that have clients.

        Raises:
            MaskingError: as :meth:`check` does.
        """
        self._claim(members, occasion, roster, contributors)
        peers = {member.silo: member.mask_key for member in members.all if member.silo != self._silo}
        add_pair_masks(values, self._silo, list(peers), lambda peer: pair_stream(self._mask_key, peers[peer], occasion))

    def with_dropouts(
        self, members: Members, occasion: Occasion, roster: Mapping[str, Public], contributors: Set[str]
    ) -> DropoutSum:
        """Start a sum from which members may drop out; its ``offer`` goes to the coordinator.

        Args:
            members: all members, this silo among them.
            occasion: the occasion, of these members.
            roster: the public keys of the cohort's silos.
            contributors: names of the members that have clients.

        Raises:
            MaskingError: as :meth:`check` does.
        """
        self._claim(members, occasion, roster, contributors)
        return DropoutSum(self._own(roster), members, occasion, frozenset(contributors))

    def _own(self, roster: Mapping[str, Public]) -> Own:
        return Own(self._cohort, self._silo, self._identity, self._mask_key, roster, self._min_members)

    def _claim(
        self, members: Members, occasion: Occasion, roster: Mapping[str, Public], contributors: Set[str]
    ) -> None:
        """Check the members, and take an occasion that was not taken before."""
        self.check(members, occasion, roster, contributors)
        self._used.add(_taken(occasion))


def _taken(occasion: Occasion) -> bytes:
    """Return a digest of an occasion without the work.

    The same members and the same stage with other work would be a second sum, of which the coordinator could take the
    difference.
    """
    return hashlib.sha256(replace(occasion, work=b"").as_bytes()).digest()
