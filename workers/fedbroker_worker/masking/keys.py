"""The mask keys of one incarnation of a silo: the present one, and earlier ones that sessions still use."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from fedbroker.masking.silo import SiloMasking
from fedbroker_worker.errors import SessionLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedbroker.masking.members import Member, Members
    from fedbroker.trust.keys import Identity

__all__ = ["MaskKeys"]

RENEWED: Final = 12 * 3600.0
"""Seconds after which a new mask key replaces the present one. A key that leaks opens no older sums."""

KEPT: Final = 36 * 3600.0
"""Seconds after which a mask key is forgotten: a session may last for a day without work after it began with it."""


class MaskKeys:
    """The mask keys of this process; never written to a disk.

    Args:
        cohort: the cohort's name.
        silo: the silo's name.
        incarnation: the id of this process.
        identity: the silo's key for signatures.
        min_sum_silos: the fewest silos over which it takes part in a sum.
        clock: returns seconds.
    """

    def __init__(
        self,
        cohort: str,
        silo: str,
        incarnation: str,
        identity: Identity,
        min_sum_silos: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._new: Final = partial(SiloMasking, cohort, silo, incarnation, identity, min_sum_silos)
        self._clock = clock
        self._silo = silo
        self._made = [(clock(), self._new())]

    @property
    def member(self) -> Member:
        """The silo itself with its present mask key, which is renewed here if it is old."""
        now = self._clock()
        if now - self._made[-1][0] >= RENEWED:
            self._made = [made for made in self._made if now - made[0] < KEPT]
            self._made.append((now, self._new()))
        return self._made[-1][1].member

    def of(self, members: Members) -> SiloMasking:
        """Return the masking with the key that this silo has among the members.

        Raises:
            SessionLost: this silo is not among them with a key of this process.
        """
        for _, masking in reversed(self._made):
            if masking.member in members.all:
                return masking
        if self._silo in members.names:
            raise SessionLost("the masked sum names a mask key that this silo no longer has", hint=_AGAIN)
        raise SessionLost("this silo is not among the members of the masked sum", hint=_AGAIN)


_AGAIN: Final = "run the computation again"
