"""Silos of masked sums, without a network between them."""

from __future__ import annotations

import hashlib

import numpy as np

from fedbroker.masking.members import Members
from fedbroker.masking.pairwise import Occasion
from fedbroker.masking.rings import Ring
from fedbroker.masking.silo import SiloMasking
from fedbroker.trust import Identity

COHORT = "airports"
RINGS = (Ring(4), Ring(3), Ring(8, 1000), Ring(8))
DTYPES = ("int32", "int32", "int64", "uint64")


class Silos:
    """Silos ``s0``, ``s1``, … with keys, a roster and mask keys.

    Args:
        count: how many.
        min_members: of each silo's policy.
    """

    def __init__(self, count, min_members=3):
        self.names = tuple(f"s{number:02}" for number in range(count))
        self.identities = {name: Identity(hashlib.sha256(name.encode()).digest()) for name in self.names}
        self.roster = {name: identity.public for name, identity in self.identities.items()}
        self.masking = {
            name: SiloMasking(COHORT, name, "i1", self.identities[name], min_members) for name in self.names
        }
        self.members = self.members_of(self.names)

    def mask(self, name, part, members, where, contributors=None):
        """Add one silo's masks to its values; every member has clients by default."""
        who = set(members.names) if contributors is None else contributors
        self.masking[name].add_masks(part, members, where, self.roster, who)

    def members_of(self, names):
        return Members(tuple(self.masking[name].member for name in sorted(names)))


def occasion(members, session="session", stage=1, work=b"work"):
    return Occasion(session, stage, members.digest, hashlib.sha256(work).digest())


def plain(name, size=7):
    """Return a silo's own values, as one array for each ring."""
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    return [generator.integers(0, 1000, size).astype(dtype) for dtype in DTYPES]


def elements(arrays):
    return [(ring, ring.elements(array)) for ring, array in zip(RINGS, arrays, strict=True)]


def values(total):
    """Return a sum as lists of integers."""
    return [ring.values(found, np.dtype(dtype)).tolist() for (ring, found), dtype in zip(total, DTYPES, strict=True)]


def summed(names, size=7):
    """Return the sum over silos of their plain values, as Python computes it."""
    columns = zip(*(plain(name, size) for name in names), strict=True)
    sums = [[sum(map(int, numbers)) for numbers in zip(*arrays, strict=True)] for arrays in columns]
    return [
        [number % ring.modulus if ring.modulus else number for number in column]
        for ring, column in zip(RINGS, sums, strict=True)
    ]
