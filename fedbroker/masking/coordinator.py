"""The coordinator's half of a masked sum from which members may drop out: it adds, and removes the masks of the sum.

It learns no member's values: what is reconstructed are the seeds of those that are in the sum, and the stage keys of
those that are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Final

from fedbroker.errors import MaskingError
from fedbroker.masking.members import MaskKey, Members
from fedbroker.masking.offers import Offer, check_distinct, check_offer, sharing_of, threshold_of
from fedbroker.masking.pairwise import Masked, Occasion, add, apply_streams, own_stream, pair_stream
from fedbroker.masking.shares import reconstruct
from fedbroker.masking.streams import Stream
from fedbroker.masking.survivors import Revealed, Survivors, is_signed
from fedbroker.trust.keys import Public

__all__ = ["CoordinatorSum"]


class CoordinatorSum:
    """One masked sum, from the members' offers to the sum over the survivors.

    Args:
        members: all members.
        occasion: the occasion, of these members.
        keys: the public keys of the cohort's silos.
    """

    def __init__(self, members: Members, occasion: Occasion, keys: Mapping[str, Public]) -> None:
        self._members, self._occasion, self._keys = members, occasion, keys
        self._offers: dict[str, Offer] = {}
        self._sharing: Occasion | None = None
        self._total: Masked | None = None
        self._arrived: set[str] = set()
        self._survivors: Survivors | None = None
        self._signatures: dict[str, bytes] = {}
        self._revealed: dict[str, Revealed] = {}

    @property
    def threshold(self) -> int:
        """The fewest members that each step needs."""
        return threshold_of(len(self._members.all))

    @property
    def offered(self) -> frozenset[str]:
        """The members that have made an offer; once the members that share are fixed, these are all of them."""
        return frozenset(self._offers)

    @property
    def offers(self) -> Mapping[str, Offer]:
        """The offers so far, by name."""
        return dict(self._offers)

    @property
    def is_sharing(self) -> bool:
        """True if the members that share are fixed."""
        return self._sharing is not None

    @property
    def revealed(self) -> frozenset[str]:
        """The survivors that have revealed their shares."""
        return frozenset(self._revealed)

    def add_offer(self, silo: str, offer: Offer) -> None:
        """Add a member's offer.

        Raises:
            MaskingError: it is no member, its signature is invalid, its stage key is that of another, or the members
                that share are fixed.
        """
        self._members.number(silo)
        if self._sharing is not None:
            raise MaskingError(f"the offer of silo {silo!r} is late", hint=_LATE)
        check_offer(offer, silo, self._keys[silo], self._occasion)
        check_distinct({**self._offers, silo: offer})
        self._offers[silo] = offer

    def fix_sharing(self) -> Mapping[str, Mapping[str, Offer]]:
        """Fix the members that share this stage, and return the offers that each of them needs, by its name.

        Raises:
            MaskingError: too few have made an offer.
        """
        self._check_count(len(self._offers), "made an offer")
        self._sharing = sharing_of(self._occasion, self._offers)
        return {holder: {silo: _for(holder, offer) for silo, offer in self._offers.items()} for holder in self._offers}

    def add_values(self, silo: str, values: Masked) -> None:
        """Add a member's masked values, in place where they are the first.

        Raises:
            MaskingError: it does not share this stage, has sent values before, or its values have another size.
        """
        if self._sharing is None or silo not in self._offers or silo in self._arrived or self._survivors is not None:
            raise MaskingError(f"masked values of silo {silo!r} are not expected", hint=_LATE)
        if self._total is None:
            self._total = values
        else:
            add(self._total, values)
        self._arrived.add(silo)

    def set_total(self, silos: Collection[str], total: Masked) -> None:
        """Set the sum of the masked values of members, which were added elsewhere.

        Raises:
            MaskingError: one of them does not share this stage, or values have arrived before.
        """
        others = set(silos) - self.offered
        if self._sharing is None or others or self._arrived or self._survivors is not None:
            raise MaskingError(f"masked values of silos {sorted(others or silos)} are not expected", hint=_LATE)
        self._total = total
        self._arrived = set(silos)

    def close(self) -> tuple[str, ...]:
        """Fix the survivors, and return their names: each is asked to sign them.

        Raises:
            MaskingError: they are too few.
        """
        if self._survivors is None:
            self._check_count(len(self._arrived), "sent values")
            assert self._sharing is not None
            self._survivors = Survivors(self._sharing, tuple(sorted(self._arrived)))
        return self._survivors.names

    def add_signature(self, silo: str, signature: bytes) -> None:
        """Add a survivor's signature.

        Raises:
            MaskingError: it is invalid.
        """
        survivors = self._fixed()
        if silo not in survivors.names or not is_signed(survivors, signature, self._keys[silo]):
            raise MaskingError(f"silo {silo!r} has not signed these survivors", hint=_SILO)
        self._signatures[silo] = signature

    @property
    def signatures(self) -> Mapping[str, bytes]:
        """The signatures so far, by name; each survivor is sent all, once they are ``threshold``."""
        return dict(self._signatures)

    def add_revealed(self, silo: str, revealed: Revealed) -> None:
        """Add a survivor's shares.

        Raises:
            MaskingError: it is no survivor, or reveals other shares than were asked for.
        """
        survivors = self._fixed()
        dropped = set(self._offers) - set(survivors.names)
        if silo not in survivors.names or set(revealed.seeds) != set(survivors.names) or set(revealed.keys) != dropped:
            raise MaskingError(f"silo {silo!r} reveals other shares than those of its survivors", hint=_SILO)
        self._revealed[silo] = revealed

    def result(self) -> Masked:
        """Remove the masks from the sum over the survivors, in place, and return it; once.

        All secrets are reconstructed before the first mask is removed: after an error, the sum is as before, and more
        shares may help.

        Raises:
            MaskingError: too few have revealed their shares, or the shares of a member do not fit; names it.
        """
        survivors, total = self._fixed(), self._total
        assert total is not None
        self._check_count(len(self._revealed), "revealed their shares")
        seeds = {silo: self._seed(silo) for silo in survivors.names}
        keys = {silo: self._stage_key(silo) for silo in sorted(self.offered - set(survivors.names))}
        streams = self._streams(survivors, seeds, keys)
        while group := list(islice(streams, _STREAMS)):
            apply_streams(total, group)
        return total

    def _seed(self, silo: str) -> bytes:
        """Return the seed of a survivor's mask of its own."""
        shares = {name: revealed.seeds[silo] for name, revealed in self._revealed.items()}
        return self._secret(silo, shares, lambda seed: hashlib.sha256(seed).digest() == self._offers[silo].commitment)

    def _stage_key(self, silo: str) -> MaskKey:
        """Return the stage key of a dropped member."""
        shares = {name: revealed.keys[silo] for name, revealed in self._revealed.items()}
        return MaskKey(self._secret(silo, shares, lambda key: MaskKey(key).public == self._offers[silo].stage_key))

    def _streams(
        self, survivors: Survivors, seeds: Mapping[str, bytes], keys: Mapping[str, MaskKey]
    ) -> Iterator[tuple[Stream, bool]]:
        """Yield the masks that the sum still has, each with True if it is to be subtracted."""
        for seed in seeds.values():
            yield own_stream(seed, survivors.sharing), True
        for dropped, key in keys.items():
            yield from self._pair_streams(dropped, key, survivors)

    def _pair_streams(self, dropped: str, key: MaskKey, survivors: Survivors) -> Iterator[tuple[Stream, bool]]:
        """Yield the masks that the survivors share with a dropped member."""
        for silo in survivors.names:
            # The survivor has subtracted the mask if the dropped member comes first.
            yield pair_stream(key, self._offers[silo].stage_key, survivors.sharing), dropped > silo

    def _secret(self, silo: str, shares: Mapping[str, bytes], fits: Callable[[bytes], bool]) -> bytes:
        """Return the secret that the shares determine. One holder may have revealed a wrong share, if more are there.

        Raises:
            MaskingError: no secret fits what the silo has offered.
        """
        numbered = {self._members.number(name): share for name, share in shares.items()}
        spare = len(numbered) > self.threshold
        for wrong in (None, *sorted(numbered)[: self.threshold]) if spare else (None,):
            try:
                secret = reconstruct({one: numbered[one] for one in numbered if one != wrong}, self.threshold)
            except MaskingError:
                continue
            if fits(secret):
                return secret
        raise MaskingError(f"the shares of silo {silo!r} do not fit", hint=_SILO)

    def _fixed(self) -> Survivors:
        if self._survivors is None:
            raise MaskingError("the survivors of a masked sum are not fixed yet", hint=_LATE)
        return self._survivors

    def _check_count(self, count: int, what: str) -> None:
        if count < self.threshold:
            raise MaskingError(
                f"{count} of {len(self._members.all)} silos have {what}, {self.threshold} are needed", hint=_AGAIN
            )


def _for(holder: str, offer: Offer) -> Offer:
    """Return an offer with the share of one holder only."""
    sealed = {holder: offer.sealed[holder]} if holder in offer.sealed else {}
    return Offer(offer.stage_key, offer.commitment, offer.signature, sealed)


_STREAMS: Final = 64  # applied at a time, so that the sum is read few times and few ciphers are held
_LATE: Final = "nothing is lost: it takes part in the next stage"
_AGAIN: Final = "silos were lost: call again"
_SILO: Final = "compare the versions of both ends, and ask the silo's administrator"
