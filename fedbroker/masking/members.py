"""Members: the silos of one masked sum, each with a mask key that the silo itself has signed.

A coordinator passes the members on, so it could invent some. A silo therefore believes the signatures only of silos in
the cohort's roster (:mod:`fedbroker.masking.roster`), which the cohort's administrator signs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from msgspec import Meta

from fedbroker.errors import MaskingError
from fedbroker.trust.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, Public, derived, joined
from fedbroker.wire.messages import Id, Name

__all__ = ["CHANGED", "MAX_MEMBERS", "MIN_MEMBERS", "MaskKey", "Member", "Members", "check_members"]

MIN_MEMBERS: Final = 3
"""With two members, each learns the other's value from the sum."""

CHANGED: Final = "find out who changes the coordinator's messages, or use the same version at both ends"
"""The hint of errors that only a changed message or another version can cause."""

MAX_MEMBERS: Final = 1024
"""Every member shares a key with every other: a silo's work and a stage's shares grow with their number."""

KeyBytes = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
SignatureBytes = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A silo that takes part in a masked sum.

    Attributes:
        silo: its name.
        incarnation: of its process; each has a mask key of its own.
        mask_key: an X25519 public key.
        signature: of the silo's key over all of these and the cohort's name.
    """

    silo: Name
    incarnation: Id
    mask_key: KeyBytes
    signature: SignatureBytes

    @classmethod
    def signed(cls, cohort: str, silo: str, incarnation: str, mask_key: bytes, identity: Identity) -> Member:
        """Return a member with its silo's signature."""
        return cls(silo, incarnation, mask_key, identity.sign(_statement(cohort, silo, incarnation, mask_key)))

    def is_signed_by(self, key: Public, cohort: str) -> bool:
        """Return whether the signature is valid."""
        return key.signed(self.signature, _statement(cohort, self.silo, self.incarnation, self.mask_key))


class Members(msgspec.Struct, frozen=True):
    """All members of one masked sum, sorted by name.

    Attributes:
        all: the members.

    Raises:
        MaskingError: they are too few or too many, not sorted, or one has the name or the key of another.
    """

    all: tuple[Member, ...]

    def __post_init__(self) -> None:
        names = [member.silo for member in self.all]
        if not MIN_MEMBERS <= len(names) <= MAX_MEMBERS:
            raise MaskingError(
                f"a masked sum over {len(names)} silos", hint=f"it needs {MIN_MEMBERS} to {MAX_MEMBERS} of them"
            )
        if names != sorted(set(names)) or len({member.mask_key for member in self.all}) < len(names):
            raise MaskingError("the members of a masked sum are not distinct and sorted by name", hint=CHANGED)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, sorted."""
        return tuple([member.silo for member in self.all])

    @property
    def digest(self) -> bytes:
        """A digest of all members and their keys, 32 bytes of SHA-256."""
        fields = [
            joined(member.silo.encode(), member.incarnation.encode(), member.mask_key, member.signature)
            for member in self.all
        ]
        return hashlib.sha256(joined(b"fedbroker members 1", *fields)).digest()

    def number(self, silo: str) -> int:
        """Return a member's number, from 1: its place among the names, and the number of its shares.

        Raises:
            MaskingError: it is no member.
        """
        try:
            return self.names.index(silo) + 1
        except ValueError:
            raise MaskingError(f"silo {silo!r} is not a member of this masked sum", hint=CHANGED) from None


class MaskKey:
    """A secret X25519 key for masks; its ``repr`` does not show it. Never written to a disk.

    Args:
        secret: 32 random bytes; new ones by default.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._key = X25519PrivateKey.generate() if secret is None else X25519PrivateKey.from_private_bytes(secret)
        self.public: Final = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"MaskKey({self.public.hex()[:16]})"

    def reveal(self) -> bytes:
        """Return the secret, 32 bytes, to be split into shares."""
        return self._key.private_bytes_raw()

    def key_with(self, other: bytes, purpose: bytes) -> bytes:
        """Derive a key of 32 bytes for one purpose, known only to the owners of the two mask keys.

        Args:
            other: the other's public mask key.
            purpose: what the key is for; the order of the two does not matter.

        Raises:
            MaskingError: the public key is one of the few that allow no shared secret.
        """
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError:
            raise MaskingError("a mask key is not usable", hint=CHANGED) from None
        return derived(secret, b"mask " + purpose, joined(*sorted((self.public, other))))


def check_members(members: Members, cohort: str, roster: Mapping[str, Public]) -> None:
    """Check that the roster's silos have signed their keys.

    Raises:
        MaskingError: a member is not in the roster, or its signature is invalid; names it.
    """
    for member in members.all:
        key = roster.get(member.silo)
        if key is None:
            raise MaskingError(f"silo {member.silo!r} is not in the roster", hint=_ROSTER)
        if not member.is_signed_by(key, cohort):
            raise MaskingError(f"silo {member.silo!r} has not signed its mask key", hint=CHANGED)


def _statement(cohort: str, silo: str, incarnation: str, mask_key: bytes) -> bytes:
    return joined(b"fedbroker mask key 1", cohort.encode(), silo.encode(), incarnation.encode(), mask_key)


_ROSTER: Final = "install the cohort's newest roster, as `fedbroker admin roster` writes it"
