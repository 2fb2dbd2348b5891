"""Shares: a secret in n parts, any t of which reconstruct it while t - 1 tell nothing.

Shamir, "How to share a secret" (Communications of the ACM 22, 1979), over the integers modulo the smallest prime above
2^256: a polynomial of degree t - 1 with random coefficients has the secret as its value at 0; share i is its value
at i.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from fedbroker.errors import MaskingError

__all__ = ["SECRET_BYTES", "SHARE_BYTES", "reconstruct", "split"]

PRIME: Final = (1 << 256) + 297
"""The smallest prime above 2^256: a secret of 32 bytes is an element."""

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33  # an element needs one bit more than a secret


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Split a secret into shares for holders 1, 2, …, in this order.

    Args:
        secret: 32 bytes.
        threshold: number of shares that reconstruct it.
        holders: number of shares; at least ``threshold``.
    """
    assert len(secret) == SECRET_BYTES
    assert 1 <= threshold <= holders < PRIME
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_value(coefficients, holder).to_bytes(SHARE_BYTES, "big") for holder in range(1, holders + 1)]


def reconstruct(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret that ``threshold`` shares determine. Wrong shares give another secret: compare it afterwards.

    Args:
        shares: the share of each holder, by its number from 1.
        threshold: how many shares reconstruct it; those of the first holders are used.

    Raises:
        MaskingError: the shares are too few, or give no secret.
    """
    if len(shares) < threshold:
        raise MaskingError(f"{len(shares)} of {threshold} shares of a secret are here", hint=_MORE)
    holders = tuple(sorted(shares)[:threshold])
    points = zip(_weights(holders), (int.from_bytes(shares[holder], "big") for holder in holders), strict=True)
    secret = sum(weight * value for weight, value in points) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise MaskingError("the shares of a secret do not fit together", hint=_FIT)
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: list[int], at: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * at + coefficient) % PRIME
    return value


@lru_cache(maxsize=16)  # all secrets of one stage are reconstructed from the shares of the same holders
def _weights(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Return the factor of each holder's share in the value at 0, by Lagrange's formula."""
    weights: list[int] = []
    for holder in holders:
        above = below = 1
        for other in holders:
            if other != holder:
                above = above * other % PRIME
                below = below * (other - holder) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


_MORE: Final = "silos were lost while masks were removed: call again"
_FIT: Final = "a silo sends wrong shares: compare the versions, and ask its administrator"
