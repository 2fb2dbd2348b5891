"""Offers: secrets that a silo deals to the others before it masks, so that masks can be removed if members drop out.

Bonawitz et al. (CCS 2017), figure 4, rounds 0 and 1: a key pair for the stage's pairwise masks and a seed of a mask of
its own; both secrets are split into shares, one for each member, sealed to that member.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Meta

from fedbroker.errors import MaskingError
from fedbroker.masking.members import CHANGED, MAX_MEMBERS, KeyBytes, MaskKey, Members, SignatureBytes
from fedbroker.masking.pairwise import Occasion
from fedbroker.masking.shares import SECRET_BYTES, SHARE_BYTES, split
from fedbroker.trust.keys import Identity, Public, joined
from fedbroker.wire.messages import Name

__all__ = [
    "Dealt",
    "Offer",
    "Share",
    "check_distinct",
    "check_offer",
    "deal",
    "open_share",
    "sharing_of",
    "threshold_of",
]

NONCE_BYTES: Final = 12  # of AES-GCM; random, since a silo that is asked twice deals twice with the same key
TAG_BYTES: Final = 16  # of AES-GCM
SEALED_BYTES: Final = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES

SealedBytes = Annotated[bytes, Meta(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]


def threshold_of(members: int) -> int:
    """Return t: how many members reconstruct a secret, and the fewest over whom a sum is formed.

    More than two thirds: with c colluding members, a coordinator cannot have both secrets of a member reconstructed as
    long as 2t > n + c (Bonawitz et al., theorem 6.5).
    """
    return 2 * members // 3 + 1


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """Public keys and shares that a member deals.

    Attributes:
        stage_key: public X25519 key for the pairwise masks of this stage.
        commitment: SHA-256 of the seed, by which its reconstruction is checked.
        signature: of the silo's key over both and the occasion.
        sealed: for each other member, the shares that only it can open.
    """

    stage_key: KeyBytes
    commitment: KeyBytes
    signature: SignatureBytes
    sealed: Annotated[dict[Name, SealedBytes], Meta(max_length=MAX_MEMBERS)]


@dataclass(frozen=True, slots=True)
class Share:
    """One holder's shares of a member's two secrets; never both of them are revealed."""

    key: bytes = field(repr=False)
    seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Dealt:
    """A silo's own secrets of a stage, and what it sends.

    Attributes:
        offer: for the coordinator and the other members.
        key: the stage key.
        seed: of the mask of its own.
        own_share: the share that it holds of its own secrets.
    """

    offer: Offer
    key: MaskKey
    seed: bytes = field(repr=False)
    own_share: Share = field(repr=False)


def deal(silo: str, identity: Identity, mask_key: MaskKey, members: Members, occasion: Occasion) -> Dealt:
    """Deal new secrets for one occasion.

    Args:
        silo: the dealer's name.
        identity: its key for signatures.
        mask_key: its mask key, which ``members`` has the public half of.
        members: all members.
        occasion: the occasion.

    Raises:
        MaskingError: it is no member, or a member's mask key is not usable.
    """
    own = members.number(silo)
    threshold, count = threshold_of(len(members.all)), len(members.all)
    key, seed = MaskKey(), secrets.token_bytes(SECRET_BYTES)
    both = zip(split(key.reveal(), threshold, count), split(seed, threshold, count), strict=True)
    shares = [Share(key_share, seed_share) for key_share, seed_share in both]
    sealed = {
        member.silo: _sealed(share, mask_key, member.mask_key, _route(silo, member.silo, occasion))
        for member, share in zip(members.all, shares, strict=True)
        if member.silo != silo
    }
    commitment = hashlib.sha256(seed).digest()
    signature = identity.sign(_statement(silo, key.public, commitment, occasion))
    return Dealt(Offer(key.public, commitment, signature, sealed), key, seed, shares[own - 1])


def check_offer(offer: Offer, silo: str, public: Public, occasion: Occasion) -> None:
    """Check that a member has made an offer for this occasion.

    Raises:
        MaskingError: its signature is invalid.
    """
    if not public.signed(offer.signature, _statement(silo, offer.stage_key, offer.commitment, occasion)):
        raise MaskingError(f"silo {silo!r} has not signed its stage key", hint=CHANGED)


def check_distinct(offers: Mapping[str, Offer]) -> None:
    """Check that no member offers the stage key of another.

    A third member would share the same mask with both. It adds the mask for one and subtracts it for the other if its
    name is between theirs: its value would be left without them.

    Raises:
        MaskingError: two stage keys are equal; names the two.
    """
    owners: dict[bytes, str] = {}
    for silo, offer in offers.items():
        owner = owners.setdefault(offer.stage_key, silo)
        if owner != silo:
            raise MaskingError(f"silos {owner!r} and {silo!r} have offered the same stage key", hint=_COPIED)


def open_share(sealed: bytes, dealer: str, holder: str, own: MaskKey, other: bytes, occasion: Occasion) -> Share:
    """Return the share that a member has sealed to this one.

    Args:
        sealed: the sealed bytes.
        dealer: name of the member that dealt it.
        holder: name of this member.
        own: this member's mask key.
        other: the dealer's public mask key.
        occasion: the occasion.

    Raises:
        MaskingError: it cannot be opened.
    """
    route = _route(dealer, holder, occasion)
    try:
        opened = AESGCM(own.key_with(other, route)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], route)
    except (InvalidTag, ValueError):
        raise MaskingError(f"the share of silo {dealer!r} for {holder!r} cannot be opened", hint=CHANGED) from None
    if len(opened) != 2 * SHARE_BYTES:
        raise MaskingError(f"the share of silo {dealer!r} for {holder!r} is damaged", hint=CHANGED)
    return Share(opened[:SHARE_BYTES], opened[SHARE_BYTES:])


def sharing_of(occasion: Occasion, offers: Mapping[str, Offer]) -> Occasion:
    """Return the occasion among those members that have made an offer; its digest covers their stage keys.

    It is part of every mask's key: members who are shown different lists have masks that do not cancel.
    """
    fields = [joined(silo.encode(), offer.stage_key, offer.commitment) for silo, offer in sorted(offers.items())]
    return replace(occasion, members=hashlib.sha256(joined(b"fedbroker offers 1", *fields)).digest())


def _sealed(share: Share, own: MaskKey, other: bytes, route: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(own.key_with(other, route)).encrypt(nonce, share.key + share.seed, route)


def _route(dealer: str, holder: str, occasion: Occasion) -> bytes:
    return joined(b"share", dealer.encode(), holder.encode(), occasion.as_bytes())


def _statement(silo: str, stage_key: bytes, commitment: bytes, occasion: Occasion) -> bytes:
    return joined(b"fedbroker stage key 1", silo.encode(), stage_key, commitment, occasion.as_bytes())


_COPIED: Final = "one has copied the other's message: ask their administrators"
