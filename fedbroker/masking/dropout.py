"""A silo's part in one sum from which members may drop out: its offer, masks, signature and shares.

The coordinator is not trusted here. Each method either does its step or raises :class:`MaskingError`; no order of calls
and no content makes a silo use a mask twice, or reveal both secrets of a member.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from fedbroker.errors import MaskingError
from fedbroker.masking.members import CHANGED, MaskKey, Members
from fedbroker.masking.offers import (
    Dealt,
    Offer,
    Share,
    check_distinct,
    check_offer,
    deal,
    open_share,
    sharing_of,
    threshold_of,
)
from fedbroker.masking.pairwise import Masked, Occasion, apply_streams, own_stream, pair_stream, pair_streams
from fedbroker.masking.survivors import Revealed, Survivors, check_signatures, signed_survivors
from fedbroker.trust.keys import Identity, Public

__all__ = ["AGAIN", "DropoutSum", "Own"]

AGAIN: Final = "call again: another session has masks of its own"
"""The hint of a silo that cannot mask for an occasion."""


@dataclass(frozen=True, slots=True)
class Own:
    """The silo itself, in one sum."""

    cohort: str
    silo: str
    identity: Identity
    mask_key: MaskKey
    roster: Mapping[str, Public]
    min_members: int

    def check_hidden(self, names: Collection[str], contributors: Set[str]) -> None:
        """Check that enough other values hide this silo's value in a sum; a silo without clients adds none.

        Raises:
            MaskingError: too few of the named silos have clients.
        """
        count = len(contributors & set(names))
        if self.silo in contributors and count < self.min_members:
            raise MaskingError(
                f"a masked sum over {count} silos with clients, where this silo wants {self.min_members}",
                hint="wait for more silos (min_silos), or lower min_sum_silos in this silo's [policy]",
            )


class DropoutSum:
    """One silo's part in one sum from which members may drop out.

    Attributes:
        offer: what this silo deals; for the coordinator.
    """

    def __init__(self, own: Own, members: Members, occasion: Occasion, contributors: frozenset[str]) -> None:
        self._own, self._members, self._occasion, self._contributors = own, members, occasion, contributors
        self._dealt: Dealt = deal(own.silo, own.identity, own.mask_key, members, occasion)
        self._offers: Mapping[str, Offer] | None = None
        self._shares: dict[str, Share] = {}
        self._sharing: Occasion | None = None
        self._survivors: Survivors | None = None
        self._revealed: Revealed | None = None
        self.offer: Final = self._dealt.offer

    @property
    def threshold(self) -> int:
        """The fewest members over which the sum is formed."""
        return threshold_of(len(self._members.all))

    def add_masks(self, values: Masked, offers: Mapping[str, Offer]) -> None:
        """Add this silo's masks to its values, in place.

        Args:
            values: the silo's own values.
            offers: of all members that share this stage; of the sealed shares, only those for this silo are needed.

        Raises:
            MaskingError: the offers are too few, are not signed, or cannot be opened; two have the same stage key; or
                this was done before.
        """
        if self._offers is not None:
            raise MaskingError("this silo has masked for this stage before", hint=AGAIN)
        own = self._own
        mine = offers.get(own.silo)
        if mine is None or (mine.stage_key, mine.commitment) != (self.offer.stage_key, self.offer.commitment):
            raise MaskingError("this silo's own offer is not among those of the stage", hint=CHANGED)
        self._check_enough(offers)
        shares = {own.silo: self._dealt.own_share}
        for silo in sorted(offers):
            if silo != own.silo:
                shares[silo] = self._opened(silo, offers[silo])
        check_distinct(offers)
        sharing = sharing_of(self._occasion, offers)
        key = self._dealt.key
        peers = [silo for silo in sorted(offers) if silo != own.silo]
        streams = pair_streams(own.silo, peers, lambda peer: pair_stream(key, offers[peer].stage_key, sharing))
        self._offers, self._shares, self._sharing = dict(offers), shares, sharing
        apply_streams(values, [(own_stream(self._dealt.seed, sharing), False), *streams])

    def sign(self, survivors: Sequence[str]) -> bytes:
        """Sign the list of members whose masked values have arrived: one list for each stage.

        Raises:
            MaskingError: this silo has signed another list, or the list is too short or is not of this stage.
        """
        offers, sharing = self._sharing_offers()
        names = tuple(survivors)
        if names != tuple(sorted(set(names))) or not set(names) <= set(offers) or self._own.silo not in names:
            raise MaskingError("the survivors of a masked sum are not members of it", hint=CHANGED)
        self._check_enough(names)
        wanted = Survivors(sharing, names)
        if self._survivors not in (None, wanted):
            raise MaskingError("this silo has signed other survivors for this stage", hint=CHANGED)
        self._survivors = wanted
        return signed_survivors(wanted, self._own.identity)

    def reveal(self, signatures: Mapping[str, bytes]) -> Revealed:
        """Return this silo's share of each survivor's seed and of each dropped member's stage key.

        Asked again, it returns the same: the coordinator repeats a message that is not answered.

        Args:
            signatures: of the survivors, under the list that this silo has signed.

        Raises:
            MaskingError: too few have signed the same list.
        """
        if self._revealed is not None:
            return self._revealed
        if self._survivors is None:
            raise MaskingError("the shares of this stage are not to be revealed yet", hint=CHANGED)
        offers, _ = self._sharing_offers()
        check_signatures(self._survivors, signatures, self._own.roster, self.threshold)
        alive = set(self._survivors.names)
        seeds = {silo: self._shares[silo].seed for silo in sorted(alive)}
        keys = {silo: self._shares[silo].key for silo in sorted(set(offers) - alive)}
        self._shares = {}  # the other secret of each member can no longer be revealed
        self._revealed = Revealed(seeds, keys)
        return self._revealed

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

    def _check_enough(self, names: Collection[str]) -> None:
        if len(names) < self.threshold:
            raise MaskingError(
                f"a masked sum over {len(names)} silos, where {self.threshold} are needed",
                hint="wait until more silos are there, or call again",
            )
        self._own.check_hidden(names, self._contributors)
