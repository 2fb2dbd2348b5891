"""Streams give both ends the same masks, and masks are uniform in their ring."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.masking import streams
from fedbroker.masking.rings import Ring
from fedbroker.masking.streams import Stream, apply_masks

KEY = bytes(range(32))
RINGS = st.one_of(st.integers(1, 8).map(Ring), st.integers(1, (1 << 64) - 1).map(lambda modulus: Ring(8, modulus)))


def masks(ring, count, key=KEY):
    total = np.zeros(count, ring.carrier)
    Stream(key).mask(ring, total)
    return total


def test_masks_are_the_keystream_of_aes_in_counter_mode():
    expected = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(64))
    assert masks(Ring(4), 16).tobytes() == expected


@pytest.mark.parametrize("modulus", [1, 2, 10, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 1])
def test_masks_of_a_modular_ring_are_the_remainders_of_accepted_draws(modulus):
    keystream = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 400))
    draws = [int.from_bytes(keystream[at : at + 8], "little") for at in range(0, len(keystream), 8)]
    accepted = [draw % modulus for draw in draws if draw < (1 << 64) // modulus * modulus]
    assert masks(Ring(8, modulus), 100).tolist() == accepted[:100]


@given(RINGS, st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.booleans()), max_size=4))
def test_several_streams_at_once_are_the_same_as_one_after_another(ring, keys):
    together, apart = np.zeros(100, ring.carrier), np.zeros(100, ring.carrier)
    apply_masks(ring, together, [(Stream(key), negative) for key, negative in keys])
    for key, negative in keys:
        Stream(key).mask(ring, apart, negative=negative)
    assert together.tolist() == apart.tolist()


@given(RINGS, st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_pieces_of_any_length_give_the_same_masks(ring, lengths):
    stream, pieces = Stream(KEY), []
    for length in lengths:
        total = np.zeros(length, ring.carrier)
        stream.mask(ring, total)
        pieces.append(total)
    assert np.concatenate(pieces).tolist() == masks(ring, sum(lengths)).tolist()


def test_more_than_one_piece_at_a_time_is_the_same_stream(monkeypatch):
    rings = (Ring(3), Ring(8), Ring(8, (1 << 63) + 1))
    whole = [masks(ring, 5000).tolist() for ring in rings]
    monkeypatch.setattr(streams, "PIECE", 64)
    assert [masks(ring, 5000).tolist() for ring in rings] == whole


@given(RINGS, st.data())
def test_masks_cancel(ring, data):
    size = min(ring.modulus or 1 << 8 * ring.width, 1 << 8 * ring.width)
    values = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1)), np.uint64).astype(ring.carrier)
    total = values.copy()
    Stream(KEY).mask(ring, total)
    Stream(KEY).mask(ring, total, negative=True)
    assert ring.values(total, np.dtype(np.uint64)).tolist() == values.tolist()


@pytest.mark.parametrize("modulus", [3, 10, 1000, (1 << 63) + 1, 3 << 62])
def test_masks_of_a_modular_ring_are_uniform(modulus):
    """Without rejection, the last two would give their lower third and half twice as often as the rest."""
    count, cells = 20_000, 10 if modulus >= 10 else 3
    drawn = masks(Ring(8, modulus), count)
    assert drawn.max() < modulus
    cell = np.array([int(value) * cells // modulus for value in drawn])
    observed = np.bincount(cell, minlength=cells)
    chi_squared = float(((observed - count / cells) ** 2 / (count / cells)).sum())
    assert chi_squared < 30  # 9 degrees of freedom: less than one in a thousand; the key is fixed


def test_key_is_not_shown():
    assert "0001" not in repr(Stream(KEY))
    assert repr(Stream(KEY)) == "Stream()"
