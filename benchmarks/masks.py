"""Masks of secure sums, without a network: a silo's masks, and their removal after silos have dropped out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import numpy as np

from benchmarks._report import Judged, Report, Row
from fedbroker.masking.coordinator import CoordinatorSum
from fedbroker.masking.dropout import DropoutSum
from fedbroker.masking.members import Members
from fedbroker.masking.pairwise import Masked, Occasion
from fedbroker.masking.rings import Ring
from fedbroker.masking.silo import SiloMasking
from fedbroker.trust.keys import Identity, Public

COLUMNS = ("silos", "elements", "CPU-s")
WIDE = Ring(5)
"""The ring of a 32-bit sum over up to 256 clients, as of ``tff.learning.secure_aggregator``."""

MODULAR = Ring(8, 1_000_003)
TURNS = 3


class Silos:
    """Silos that mask, without a network.

    Args:
        count: their number.
    """

    def __init__(self, count: int) -> None:
        names = [f"s{number:04}" for number in range(count)]
        identities = {name: Identity.generate() for name in names}
        self.roster: dict[str, Public] = {name: identity.public for name, identity in identities.items()}
        self.masking = {name: SiloMasking("bench", name, "1", identity, 3) for name, identity in identities.items()}
        self.members = Members(tuple(masking.member for masking in self.masking.values()))

    def occasion(self, stage: int) -> Occasion:
        """Return the occasion of a stage."""
        return Occasion("session", stage, self.members.digest, bytes(32))


def run(quick: bool) -> Report:
    """Measure a silo's masks, and the removal of masks with a tenth of the silos dropped."""
    count, size, large = (20, 100_000, 1_000_000) if quick else (100, 1_000_000, 10_000_000)
    rows = [
        _masks("a silo masks, 5 bytes for each element", WIDE, large),
        _masks("a silo masks, modulo 1000003", MODULAR, large),
    ]
    seconds = _removal(count, count // 10, size)
    judged = None if quick else Judged(seconds, "≤", 3.0, "s")
    figures = dict(zip(COLUMNS, (count, size, seconds), strict=True))
    rows.append(Row(f"the coordinator removes masks, {count // 10} of {count} silos dropped", figures, judged))
    return Report(
        "masks",
        "Masks of secure sums, without a network",
        COLUMNS,
        rows,
        ("Judged: the processor time to check and combine the survivors' shares and to subtract all masks.",),
    )


def _masks(case: str, ring: Ring, size: int) -> Row:
    silos = Silos(8)
    name, stages = silos.members.names[3], iter(range(TURNS))
    values: Masked = [(ring, np.zeros(size, ring.carrier))]

    def mask() -> None:
        occasion = silos.occasion(next(stages))
        silos.masking[name].add_masks(values, silos.members, occasion, silos.roster, set(silos.roster))

    seconds = min(_processor(mask) for _ in range(TURNS))
    return Row(case, dict(zip(COLUMNS, (8, size, seconds), strict=True)))


def _removal(count: int, dropped: int, size: int) -> float:
    """Return the processor time of the removal, and check the sum."""
    silos = Silos(count)
    occasion = silos.occasion(0)
    coordinator = CoordinatorSum(silos.members, occasion, silos.roster)
    sums: dict[str, DropoutSum] = {}
    for name, masking in silos.masking.items():
        sums[name] = masking.with_dropouts(silos.members, occasion, silos.roster, set(silos.roster))
        coordinator.add_offer(name, sums[name].offer)
    offers = coordinator.fix_sharing()
    gone = set(secrets.SystemRandom().sample(silos.members.names, dropped))
    alive = [name for name in silos.members.names if name not in gone]
    for name in alive:
        values: Masked = [(WIDE, np.ones(size, WIDE.carrier))]
        sums[name].add_masks(values, offers[name])
        coordinator.add_values(name, values)
    survivors = coordinator.close()
    for name in alive:
        coordinator.add_signature(name, sums[name].sign(survivors))
    revealed = {name: sums[name].reveal(coordinator.signatures) for name in alive}
    found: list[Masked] = []

    def remove() -> None:
        for name, shares in revealed.items():
            coordinator.add_revealed(name, shares)
        found.append(coordinator.result())

    seconds = _processor(remove)
    ((ring, total),) = found[0]
    if not np.all(ring.values(total, np.dtype(np.int64)) == len(alive)):
        raise RuntimeError("the masked sum is wrong")
    return seconds


def _processor(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
