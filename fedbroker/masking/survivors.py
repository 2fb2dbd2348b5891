"""Survivors: the members whose masked values have arrived, and the round in which they agree on that list.

Bonawitz et al. (CCS 2017), figure 4, rounds 3 and 4. Each survivor signs one list for each stage and reveals shares
only where a threshold of members has signed the same. Without that round, a coordinator that shows different lists to
different members could have both secrets of a member reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from fedbroker.errors import MaskingError
from fedbroker.masking.members import CHANGED, MAX_MEMBERS
from fedbroker.masking.pairwise import Occasion
from fedbroker.masking.shares import SHARE_BYTES
from fedbroker.trust.keys import Identity, Public, joined
from fedbroker.wire.messages import Name

__all__ = ["Revealed", "Survivors", "check_signatures", "signed_survivors"]

ShareBytes: TypeAlias = Annotated[bytes, Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Shares: TypeAlias = Annotated[dict[Name, ShareBytes], Meta(max_length=MAX_MEMBERS)]


@dataclass(frozen=True, slots=True)
class Survivors:
    """A list of survivors.

    Attributes:
        sharing: the occasion; its ``members`` is the digest of the offers, and so of all who may be survivors.
        names: the survivors' names, sorted.
    """

    sharing: Occasion
    names: tuple[str, ...]

    def as_bytes(self) -> bytes:
        """Return an unambiguous encoding."""
        return joined(b"fedbroker survivors 1", self.sharing.as_bytes(), *(name.encode() for name in self.names))


class Revealed(msgspec.Struct, frozen=True, array_like=True):
    """One member's shares that remove masks; its ``repr`` shows none.

    Attributes:
        seeds: its share of each survivor's seed.
        keys: its share of each dropped member's stage key.
    """

    seeds: Shares
    keys: Shares

    def __repr__(self) -> str:
        return f"Revealed({len(self.seeds)} seeds, {len(self.keys)} keys)"


def signed_survivors(survivors: Survivors, identity: Identity) -> bytes:
    """Return a member's signature under a list."""
    return identity.sign(survivors.as_bytes())


def is_signed(survivors: Survivors, signature: bytes, key: Public) -> bool:
    """Return whether a member has signed a list."""
    return key.signed(signature, survivors.as_bytes())


def check_signatures(
    survivors: Survivors, signatures: Mapping[str, bytes], roster: Mapping[str, Public], threshold: int
) -> None:
    """Check that enough survivors have signed the same list.

    Args:
        survivors: the list.
        signatures: by the signer's name; only those of survivors count.
        roster: the public keys of the cohort's silos.
        threshold: how many are needed.

    Raises:
        MaskingError: too few have, or a signature is invalid.
    """
    for name, signature in signatures.items():
        if name not in survivors.names or name not in roster or not is_signed(survivors, signature, roster[name]):
            raise MaskingError(f"silo {name!r} has not signed these survivors", hint=CHANGED)
    if len(signatures) < threshold:
        raise MaskingError(f"{len(signatures)} silos have signed the survivors, {threshold} are needed", hint=CHANGED)
