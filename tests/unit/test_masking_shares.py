"""Any t shares reconstruct a secret, and t - 1 tell nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.errors import MaskingError
from fedbroker.masking import shares
from fedbroker.masking.shares import PRIME, SHARE_BYTES, reconstruct, split

SECRETS = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32]))


def numbered(parts):
    return dict(enumerate(parts, 1))


@given(SECRETS, st.integers(1, 12), st.integers(0, 8), st.data())
@settings(max_examples=50)
def test_any_threshold_of_shares_reconstructs(secret, threshold, more, data):
    parts = numbered(split(secret, threshold, threshold + more))
    holders = data.draw(st.permutations(sorted(parts)))[:threshold]
    assert reconstruct({holder: parts[holder] for holder in holders}, threshold) == secret
    assert reconstruct(parts, threshold) == secret


def test_one_share_fewer_fits_every_secret():
    """With t - 1 shares, each other secret has a last share that gives it."""
    secret, threshold = b"s" * 32, 3
    parts = numbered(split(secret, threshold, 4))
    weights = shares._weights((1, 2, 3))
    known = sum(weights[holder - 1] * int.from_bytes(parts[holder], "big") for holder in (1, 2))
    for guess in (bytes(32), b"\xff" * 32, b"g" * 32):
        last = (int.from_bytes(guess, "big") - known) * pow(weights[2], -1, PRIME) % PRIME
        forged = {1: parts[1], 2: parts[2], 3: last.to_bytes(SHARE_BYTES, "big")}
        assert reconstruct(forged, threshold) == guess


def test_shares_below_the_threshold_are_distributed_as_for_every_other_secret(monkeypatch):
    """All polynomials over a field of 13: any two of three holders see each pair of shares equally often."""
    monkeypatch.setattr(shares, "PRIME", 13)
    seen = {}
    for secret in range(13):
        for coefficients in itertools.product(range(13), repeat=2):
            values = [shares._value([secret, *coefficients], holder) for holder in (1, 2, 3)]
            for held in itertools.combinations(range(3), 2):
                key = (held, tuple(values[index] for index in held))
                seen.setdefault(secret, {}).setdefault(key, 0)
                seen[secret][key] += 1
    assert all(counts == seen[0] for counts in seen.values())


def test_prime_is_the_smallest_above_a_secret():
    def is_prime(number):
        """Miller-Rabin with fixed bases."""
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            power = pow(base, odd, number)
            if power in (1, number - 1):
                continue
            for _ in range(twos - 1):
                power = power * power % number
                if power == number - 1:
                    break
            else:
                return False
        return True

    assert is_prime(PRIME)
    assert not any(is_prime(number) for number in range(1 << 256, PRIME))


def test_too_few_or_wrong_shares_are_refused():
    parts = numbered(split(b"\xff" * 32, 2, 3))
    with pytest.raises(MaskingError, match="1 of 2 shares"):
        reconstruct({1: parts[1]}, 2)
    high = {holder: (PRIME - 1).to_bytes(SHARE_BYTES, "big") for holder in (1, 2)}  # a line through p - 1 at 0
    with pytest.raises(MaskingError, match="do not fit together"):
        reconstruct(high, 2)
