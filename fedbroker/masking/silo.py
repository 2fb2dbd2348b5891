"""A silo's half of masked sums: what it checks, and what it lets out, once.

The coordinator is not trusted here. Each method either does its step or raises :class:`MaskingError`; no order of calls
and no content makes a silo use a mask twice, or reveal both secrets of a member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedbroker.errors import MaskingError
from fedbroker.masking.members import CHANGED, MaskKey, Member, Members, check_members
from fedbroker.masking.offers import Dealt, Offer, Share, check_offer, deal, open_share, sharing_of, threshold_of
from fedbroker.masking.pairwise import Masked, Occasion, add_pair_masks, apply_stream, own_stream, pair_stream
from fedbroker.masking.survivors import Revealed, Survivors, check_signatures, signed_survivors
from fedbroker.trust.keys import Identity, Public

__all__ = ["DropoutSum", "SiloMasking"]


@dataclass(frozen=True, slots=True)
class _Own:
    """The silo itself, in one sum."""

    cohort: str
    silo: str
    identity: Identity
    mask_key: MaskKey
    roster: Mapping[str, Public]
    min_members: int


class SiloMasking:
    """The masked sums of one incarnation of a silo.

    Args:
        cohort: the cohort's name.
        silo: the silo's name.
        incarnation: of its process.
        identity: its key for signatures.
        min_members: the fewest silos over which it takes part in a sum.
    """

    def __init__(self, cohort: str, silo: str, incarnation: str, identity: Identity, min_members: int) -> None:
        self._cohort, self._silo, self._identity, self._min_members = cohort, silo, identity, min_members
        self._mask_key = MaskKey()
        self._used: set[tuple[str, int, bytes]] = set()
        self.member: Final = Member.signed(cohort, silo, incarnation, self._mask_key.public, identity)

    def add_masks(self, values: Masked, members: Members, occasion: Occasion, roster: Mapping[str, Public]) -> None:
        """Add this silo's masks to its values, in place, for a sum over all members.

        Args:
            values: the silo's own values.
            members: all members, this silo among them.
            occasion: the occasion, of these members.
            roster: the public keys of the cohort's silos.

        Raises:
            MaskingError: a member is invented, they are too few, or this silo has masked for this occasion before.
        """
        self._claim(members, occasion, roster, len(members.all))
        peers = {member.silo: member.mask_key for member in members.all if member.silo != self._silo}
        add_pair_masks(values, self._silo, list(peers), lambda peer: pair_stream(self._mask_key, peers[peer], occasion))

    def with_dropouts(self, members: Members, occasion: Occasion, roster: Mapping[str, Public]) -> DropoutSum:
        """Start a sum from which members may drop out; its ``offer`` goes to the coordinator.

        Args:
            members: all members, this silo among them.
            occasion: the occasion, of these members.
            roster: the public keys of the cohort's silos.

        Raises:
            MaskingError: as :meth:`add_masks` does.
        """
        self._claim(members, occasion, roster, threshold_of(len(members.all)))
        own = _Own(self._cohort, self._silo, self._identity, self._mask_key, roster, self._min_members)
        return DropoutSum(own, members, occasion)

    def _claim(self, members: Members, occasion: Occasion, roster: Mapping[str, Public], fewest: int) -> None:
        """Check the members, and take an occasion that was not taken before.

        The digest of the work is left out on purpose: the same members and the same stage with other work would be a
        second sum of which the coordinator could take the difference.
        """
        if self.member not in members.all:
            raise MaskingError("this silo, or its present mask key, is not among the members", hint=_AGAIN)
        if occasion.members != members.digest:
            raise MaskingError("a masked sum is for other members than those it names", hint=CHANGED)
        if fewest < self._min_members:
            raise MaskingError(
                f"a masked sum over as few as {fewest} silos, where this silo wants {self._min_members}",
                hint="wait for more silos (min_silos), or lower min_sum_silos in this silo's [policy]",
            )
        check_members(members, self._cohort, roster)
        taken = (occasion.session_id, occasion.stage, occasion.members)
        if taken in self._used:
            raise MaskingError("this silo has masked for this stage before", hint=_AGAIN)
        self._used.add(taken)


class DropoutSum:
    """One silo's part in one sum from which members may drop out.

    Attributes:
        offer: what this silo deals; for the coordinator.
    """

    def __init__(self, own: _Own, members: Members, occasion: Occasion) -> None:
        self._own, self._members, self._occasion = own, members, occasion
        self._dealt: Dealt = deal(own.silo, own.identity, own.mask_key, members, occasion)
        self._offers: Mapping[str, Offer] | None = None
        self._shares: dict[str, Share] = {}
        self._sharing: Occasion | None = None
        self._survivors: Survivors | None = None
        self._revealed = False
        self.offer: Final = self._dealt.offer

    @property
    def threshold(self) -> int:
        """The fewest members over which the sum is formed."""
        return max(threshold_of(len(self._members.all)), self._own.min_members)

    def add_masks(self, values: Masked, offers: Mapping[str, Offer]) -> None:
        """Add this silo's masks to its values, in place.

        Args:
            values: the silo's own values.
            offers: of all members that share this stage; of the sealed shares, only those for this silo are needed.

        Raises:
            MaskingError: the offers are too few, are not signed, or cannot be opened; or this was done before.
        """
        if self._offers is not None:
            raise MaskingError("this silo has masked for this stage before", hint=_AGAIN)
        own = self._own
        mine = offers.get(own.silo)
        if mine is None or (mine.stage_key, mine.commitment) != (self.offer.stage_key, self.offer.commitment):
            raise MaskingError("this silo's own offer is not among those of the stage", hint=CHANGED)
        self._check_count(len(offers))
        shares = {own.silo: self._dealt.own_share}
        for silo in sorted(offers):
            if silo != own.silo:
                shares[silo] = self._opened(silo, offers[silo])
        sharing = sharing_of(self._occasion, offers)
        self._offers, self._shares, self._sharing = dict(offers), shares, sharing
        key = self._dealt.key
        apply_stream(values, own_stream(self._dealt.seed, sharing))
        peers = [silo for silo in sorted(offers) if silo != own.silo]
        add_pair_masks(values, own.silo, peers, lambda peer: pair_stream(key, offers[peer].stage_key, sharing))

    def sign(self, survivors: Sequence[str]) -> bytes:
        """Sign the list of members whose masked values have arrived: one list for each stage.

        Raises:
            MaskingError: this silo has signed another list, or the list is too short or is not of this stage.
        """
        offers, sharing = self._sharing_offers()
        names = tuple(survivors)
        if names != tuple(sorted(set(names))) or not set(names) <= set(offers) or self._own.silo not in names:
            raise MaskingError("the survivors of a masked sum are not members of it", hint=CHANGED)
        self._check_count(len(names))
        wanted = Survivors(sharing, names)
        if self._survivors not in (None, wanted):
            raise MaskingError("this silo has signed other survivors for this stage", hint=CHANGED)
        self._survivors = wanted
        return signed_survivors(wanted, self._own.identity)

    def reveal(self, signatures: Mapping[str, bytes]) -> Revealed:
        """Return this silo's share of each survivor's seed and of each dropped member's stage key, once.

        Args:
            signatures: of the survivors, under the list that this silo has signed.

        Raises:
            MaskingError: too few have signed the same list, or this was done before.
        """
        if self._survivors is None or self._revealed:
            raise MaskingError("the shares of this stage are not, or no longer, to be revealed", hint=CHANGED)
        offers, _ = self._sharing_offers()
        check_signatures(self._survivors, signatures, self._own.roster, self.threshold)
        self._revealed = True
        alive = set(self._survivors.names)
        seeds = {silo: self._shares[silo].seed for silo in sorted(alive)}
        keys = {silo: self._shares[silo].key for silo in sorted(set(offers) - alive)}
        self._shares = {}
        return Revealed(seeds, keys)

    def _sharing_offers(self) -> tuple[Mapping[str, Offer], Occasion]:
        if self._offers is None or self._sharing is None:
            raise MaskingError("this silo has not masked for this stage", hint=CHANGED)
        return self._offers, self._sharing

    def _opened(self, silo: str, offer: Offer) -> Share:
        own = self._own
        member = self._members.all[self._members.number(silo) - 1]
        check_offer(offer, silo, own.roster[silo], self._occasion)
        sealed = offer.sealed.get(own.silo, b"")
        return open_share(sealed, silo, own.silo, own.mask_key, member.mask_key, self._occasion)

    def _check_count(self, count: int) -> None:
        if count < self.threshold:
            raise MaskingError(
                f"a masked sum over {count} silos, where {self.threshold} are needed",
                hint="wait until more silos are there, or call again",
            )


_AGAIN: Final = "call again: another session has masks of its own"
