"""The handle that stands for the silos' own data in a program. Its module does not import TFF, which is slow."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from fedbroker.errors import UsageError

__all__ = ["Draw", "SiloData", "data"]


@dataclass(frozen=True, slots=True)
class Draw:
    """A choice of silos, uniformly at random without replacement.

    Attributes:
        count: number of silos.
        seed: seed of the random choice; the same seed draws the same of the same silos.
    """

    count: int
    seed: int

    def of(self, silos: Iterable[str]) -> frozenset[str]:
        """Draw ``count`` of these silos, which must be at least as many."""
        return frozenset(random.Random(self.seed).sample(sorted(silos), self.count))


@dataclass(frozen=True, slots=True)
class SiloData:
    """Each silo's own data of one name. Made by :func:`data`.

    Attributes:
        name: name of the data source, the same at every silo.
        batch_size: rows in each element of a sequence, or None.
        draw: choice of the silos, among those with this source, that take part; None for every silo of the session.
    """

    name: str
    batch_size: int | None = None
    draw: Draw | None = None


def data(name: str, *, batch_size: int | None = None) -> SiloData:
    """Return a handle for clients' data that stays at the silos; pass it as a clients-placed argument of a computation.

    Each silo binds its own source of that name to the type that the computation declares. Columns are found by name
    (``<x=float32[?,4],y=int32[?]>`` takes columns ``x`` and ``y``; nested names are joined with a dot) or, where the
    type has no names, by position. These types bind:

    - a sequence ``{<x=float32[?,4],y=int32[?]>*}@CLIENTS``: batches of ``batch_size`` rows, the last one shorter; with
      a fixed first dimension, as in ``float32[32,4]``, batches of exactly that many rows;
    - a sequence of single rows, ``{<x=float32[4],y=int32>*}@CLIENTS``, without ``batch_size``;
    - arrays of all rows, ``{<x=float32[?,4],y=int32[?]>}@CLIENTS`` or ``{float32[?]}@CLIENTS``;
    - scalars, ``{<n=int32,mean=float32>}@CLIENTS``, from a source of one row.

    Numbers are converted within their kind and from integers to floats; anything else must have the same dtype.

    Args:
        name: name of the data source in each silo's configuration, ``[data.NAME]``.
        batch_size: rows in each element of a sequence; None for single rows.

    Raises:
        UsageError: ``batch_size`` is not positive.
    """
    if not name:
        raise UsageError("fedbroker.data() was given no name", hint='name a source, as in fedbroker.data("flights")')
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}", hint="it must be at least 1")
    return SiloData(name, batch_size)
