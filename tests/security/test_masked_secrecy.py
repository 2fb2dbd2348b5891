"""Masked values are noise to all who see them, and no secret of a silo shows anywhere."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import random
import traceback
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from fedbroker.errors import MaskingError
from fedbroker.masking import members, offers, pairwise, shares
from fedbroker.masking.coordinator import CoordinatorSum
from fedbroker.masking.pairwise import apply_streams, own_stream, pair_stream
from fedbroker.masking.rings import Ring
from fedbroker.masking.streams import Stream
from tests.support.masking import Silos, occasion

RINGS = (Ring(1), Ring(3), Ring(4), Ring(5), Ring(8), Ring(8, 1000), Ring(8, 3 << 62))
SIZE, RUNS = 64, 40
SIGMAS = 6  # from the mean of a chi-square: below one in a million, and the seeds are fixed


@pytest.fixture
def seeded(monkeypatch):
    """Draw all secrets from a generator with a fixed seed."""
    generator = random.Random(0)
    key = members.X25519PrivateKey
    monkeypatch.setattr(
        members,
        "X25519PrivateKey",
        SimpleNamespace(
            generate=lambda: key.from_private_bytes(generator.randbytes(32)), from_private_bytes=key.from_private_bytes
        ),
    )
    drawn = SimpleNamespace(token_bytes=generator.randbytes, randbelow=generator.randrange)
    monkeypatch.setattr(offers, "secrets", drawn)
    monkeypatch.setattr(shares, "secrets", drawn)


def inputs(spread):
    """Return each silo's values for each ring: those of three silos have the same sum for every spread."""
    sizes = [np.full(SIZE, 7, np.uint64) for _ in RINGS]
    return {
        "s00": [one + spread for one in sizes],
        "s01": [one - one for one in sizes],
        "s02": [np.full(SIZE, 100 - spread, np.uint64) for _ in RINGS],
    }


def elements(arrays):
    return [(ring, ring.elements(array)) for ring, array in zip(RINGS, arrays, strict=True)]


def masked(spread, stage, silos, *, dropouts):
    """Return the masked values of the first silo."""
    values = {name: elements(arrays) for name, arrays in inputs(spread).items()}
    where, everyone = occasion(silos.members, stage=stage), set(silos.names)
    if not dropouts:
        silos.mask("s00", values["s00"], silos.members, where)
        return values["s00"]
    sums = {
        name: one.with_dropouts(silos.members, where, silos.roster, everyone) for name, one in silos.masking.items()
    }
    sums["s00"].add_masks(values["s00"], {name: one.offer for name, one in sums.items()})
    return values["s00"]


def chi_squared(observed):
    """Return how many standard deviations the statistic of equal cells is above its mean."""
    expected = sum(observed) / len(observed)
    return deviations(((observed - expected) ** 2 / expected).sum(), len(observed) - 1)


def deviations(statistic, free):
    return float((statistic - free) / (2 * free) ** 0.5)


def cells(ring, found, count=32):
    """Count elements in equal parts of their ring."""
    size = ring.modulus or 1 << 8 * ring.width
    return np.bincount([int(one) * count // size for one in found], minlength=count)


def packed(ring, found):
    return np.frombuffer(ring.pack(found), np.uint8)


@pytest.mark.parametrize("dropouts", [False, True])
def test_masked_values_of_different_inputs_are_equally_uniform(seeded, dropouts):
    silos, drawn = Silos(3), {0: [], 90: []}
    for stage in range(RUNS):
        for at, spread in enumerate(drawn):
            drawn[spread].append(masked(spread, 2 * stage + at, silos, dropouts=dropouts))
    for at, ring in enumerate(RINGS):
        both = []
        for runs in drawn.values():
            found = np.concatenate([ring.unpack(ring.pack(values[at][1])) for values in runs])
            both.append(cells(ring, found))
            assert chi_squared(both[-1]) < SIGMAS, ring
            if not ring.modulus:
                assert chi_squared(np.bincount(packed(ring, found), minlength=256)) < SIGMAS, ring
            for place in (0, SIZE - 1):  # also one element over many runs
                assert chi_squared(cells(ring, found[place::SIZE], 4)) < SIGMAS, ring
        one, other = both
        assert deviations(((one - other) ** 2 / (one + other)).sum(), len(one) - 1) < SIGMAS


def test_the_same_tests_find_values_without_masks():
    for ring, array in zip(RINGS, inputs(0)["s00"], strict=True):
        assert chi_squared(cells(ring, np.tile(ring.elements(array), RUNS))) > 100 * SIGMAS


def test_fewer_shares_than_the_threshold_are_equally_likely_for_every_secret(monkeypatch):
    """Exhaustively: all polynomials over a field of seven elements, all sets of two of four holders."""
    monkeypatch.setattr(shares, "PRIME", 7)
    shares._weights.cache_clear()
    polynomials = list(itertools.product(range(7), repeat=3))
    for holders in itertools.combinations(range(1, 5), 2):
        seen = Counter((one[0], *(shares._value(list(one), holder) for holder in holders)) for one in polynomials)
        assert len(seen) == 7**3
        assert set(seen.values()) == {1}
    for holders in itertools.combinations(range(1, 5), 3):
        weights = shares._weights(holders)
        for one in polynomials:
            values = [shares._value(list(one), holder) for holder in holders]
            assert sum(a * b for a, b in zip(weights, values, strict=True)) % 7 == one[0]
    shares._weights.cache_clear()


def finished(count=4, dropped=1):
    """Return a run with its silos, in which the first silos drop out after they have sent their offers."""
    silos = Silos(count)
    where, everyone = occasion(silos.members), set(silos.names)
    coordinator = CoordinatorSum(silos.members, where, silos.roster)
    sums = {
        name: one.with_dropouts(silos.members, where, silos.roster, everyone) for name, one in silos.masking.items()
    }
    secrets = {name: (one._dealt.key, one._dealt.seed, dict(one._shares)) for name, one in sums.items()}
    for name, one in sums.items():
        coordinator.add_offer(name, one.offer)
    needed = coordinator.fix_sharing()
    alive, sent = silos.names[dropped:], {}
    for number, name in enumerate(alive):
        values = [(Ring(8), np.full(4, 1000 + number, np.uint64))]
        sums[name].add_masks(values, needed[name])
        secrets[name] = (*secrets[name][:2], dict(sums[name]._shares))
        sent[name] = values[0][1].copy()
        coordinator.add_values(name, values)
    survivors = coordinator.close()
    for name in alive:
        coordinator.add_signature(name, sums[name].sign(survivors))
    for name in alive:
        coordinator.add_revealed(name, sums[name].reveal(coordinator.signatures))
    return SimpleNamespace(
        silos=silos, sums=sums, coordinator=coordinator, secrets=secrets, sent=sent, alive=alive, needed=needed
    )


def test_no_combination_of_known_masks_gives_a_partial():
    """All masks that the coordinator and two colluding silos of four know, added and subtracted in every way."""
    run = finished()
    target, honest, *colluding = run.alive[0], run.alive[1], *run.alive[2:]
    sharing = run.sums[target]._sharing
    offered = {name: one.offer.stage_key for name, one in run.sums.items()}
    threshold = run.coordinator.threshold
    numbers = {name: run.silos.members.number(name) for name in run.silos.names}
    held = {numbers[name]: run.secrets[name][2] for name in colluding[: threshold - 1]}
    for revealed in run.coordinator._revealed.values():
        assert target not in revealed.keys  # no share of the key of a silo whose value is in the sum
        assert set(revealed.seeds) == set(run.alive)
    keys = {number: found[target].key for number, found in held.items()}
    with pytest.raises(MaskingError, match="of 3 shares"):
        shares.reconstruct(dict(list(keys.items())[: threshold - 1]), threshold)
    seed = run.secrets[target][1]  # the coordinator reconstructs it
    gone = run.secrets[run.silos.names[0]][0]  # and this one
    known = [own_stream(seed, sharing), pair_stream(gone, offered[target], sharing)]
    known += [pair_stream(run.secrets[name][0], offered[target], sharing) for name in colluding]
    masks = [masks_of(stream) for stream in known]
    hidden = masks_of(pair_stream(run.secrets[honest][0], offered[target], sharing))
    partial = np.full(4, 1000, np.uint64)
    assert not any(np.array_equal(found, partial) for found in combined(run.sent[target], masks))
    assert any(np.array_equal(found, partial) for found in combined(run.sent[target], [*masks, hidden]))


def masks_of(stream):
    values = [(Ring(8), np.zeros(4, np.uint64))]
    apply_streams(values, [(stream, False)])
    return values[0][1]


def combined(value, masks):
    for signs in itertools.product((0, 1, -1), repeat=len(masks)):
        total = value.copy()
        for sign, mask in zip(signs, masks, strict=True):
            total = total + mask if sign > 0 else total - mask if sign < 0 else total
        yield total


def test_no_stream_is_used_twice_over_many_sums(monkeypatch):
    keys = Counter()

    class Recorded(Stream):
        def __init__(self, key):
            super().__init__(key)
            keys[key] += 1

    monkeypatch.setattr(pairwise, "Stream", Recorded)
    silos = Silos(5)
    for stage, dropouts in itertools.product(range(4), (False, True)):
        where = occasion(silos.members, session=f"s{dropouts}", stage=stage)
        if not dropouts:
            for name in silos.names:
                silos.mask(name, [(Ring(8), np.zeros(1, np.uint64))], silos.members, where)
            continue
        sums = {
            name: one.with_dropouts(silos.members, where, silos.roster, set(silos.names))
            for name, one in silos.masking.items()
        }
        for one in sums.values():
            one.add_masks([(Ring(8), np.zeros(1, np.uint64))], {name: other.offer for name, other in sums.items()})
    pairs = 8 * 5 * 4 // 2
    assert Counter(keys.values()) == {2: pairs, 1: 4 * 5}  # both ends of a pair, and each silo's own


def test_secrets_show_nowhere():
    run = finished()
    secret = set()
    for name, (key, seed, held) in run.secrets.items():
        secret |= {key.reveal(), seed, run.silos.masking[name]._mask_key.reveal()}
        secret |= {found for share in held.values() for found in (share.key, share.seed)}
    texts = []
    for one in (*run.sums.values(), *run.silos.masking.values(), run.coordinator):
        texts += [repr(one), str(one), *(f"{value!r}" for value in vars(one).values() if not _is_offers(value))]
    for attempt in (
        lambda: run.sums["s01"].sign(("s01",)),
        lambda: run.sums["s01"].add_masks([], run.needed["s01"]),
        lambda: run.sums["s00"].reveal({}),
        lambda: run.coordinator.add_offer("s01", run.sums["s01"].offer),
        lambda: run.coordinator.add_revealed("s00", next(iter(run.coordinator._revealed.values()))),
        lambda: offers.open_share(
            bytes(94), "s00", "s01", run.secrets["s01"][0], bytes([9] * 32), occasion(run.silos.members)
        ),
    ):
        with pytest.raises(MaskingError) as caught:
            attempt()
        texts.append("".join(traceback.format_exception(caught.value)))
    everything = "\n".join(texts)
    for found in secret:
        for shown in (found.hex(), repr(found)[2:-1], str(int.from_bytes(found, "big"))):
            assert shown not in everything


def _is_offers(value):
    """Return whether a value holds public keys and sealed shares only: their bytes are shown, and are no secret."""
    return isinstance(value, dict) and any(isinstance(one, offers.Offer) for one in value.values())


def test_objects_with_secrets_cannot_be_pickled():
    run = finished()
    for one in (run.sums["s01"], run.silos.masking["s01"], run.secrets["s01"][0], run.sums["s01"]._dealt):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(one)
    assert hashlib.sha256(run.secrets["s01"][1]).digest() == run.sums["s01"].offer.commitment
