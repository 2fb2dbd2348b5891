"""The handle that stands for the silos' own data in a program. Its module does not import TFF, which is slow."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Final

from fedbroker.errors import UsageError

__all__ = ["Draw", "SiloData", "data"]

MOST: Final = 2**31 - 1
"""Largest number of rows, epochs or rounds: more rows than a value may hold, and no product of two overflows."""


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
        epochs: number of times that a client's rows come, in one sequence.
        shuffle: each epoch has the rows in another order.
        seed: seed of these orders; None for a random one in each invocation.
        limit: number of rows of one epoch; None for all rows of the client.
        drop_remainder: a last batch of fewer than ``batch_size`` rows is left out.
        round: number from which, with the seed, the orders are made; None to count the context's invocations.
    """

    name: str
    batch_size: int | None = None
    draw: Draw | None = None
    epochs: int = 1
    shuffle: bool = False
    seed: int | None = None
    limit: int | None = None
    drop_remainder: bool = False
    round: int | None = None

    @property
    def is_plain(self) -> bool:
        """True if a client's rows come once, all of them and in the order of the source."""
        return self.epochs == 1 and not self.shuffle and self.limit is None

    def __repr__(self) -> str:
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name == "name" or getattr(self, field.name) != field.default
        ]
        return f"SiloData({', '.join(given)})"


def data(
    name: str,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    shuffle: bool = False,
    seed: int | None = None,
    limit: int | None = None,
    drop_remainder: bool = False,
    round: int | None = None,
) -> SiloData:
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

    A sequence is what ``rows.shuffle(all).take(limit).repeat(epochs).batch(batch_size, drop_remainder)`` makes in
    ``tf.data``: each epoch is shuffled by itself, and a batch may hold the last rows of one epoch and the first of the
    next. The silo makes it of indices, in the stage that needs it: neither ``epochs`` nor ``shuffle`` takes memory.

    With ``shuffle``, each client has an order of its own, and another one in each epoch and each round. It depends on
    ``seed``, the round, the silo's name, the client's number at the silo and, where messages are signed, on the silo's
    secret key, so that a coordinator cannot tell a silo by its order. The round is the number of earlier invocations in
    this context with an equal handle, retries not counted: the same program makes the same orders when it is run again.
    A program that continues an interrupted run gives ``round`` itself.

    Args:
        name: name of the data source in each silo's configuration, ``[data.NAME]``.
        batch_size: rows in each element of a sequence; None for single rows.
        epochs: number of times that each row comes in the sequence.
        shuffle: shuffle all rows of a client, each epoch by itself.
        seed: seed of the orders, for ``shuffle``; None for other orders each time.
        limit: rows in each epoch: with ``shuffle`` a random sample, else the first ones. None for all.
        drop_remainder: leave out a last batch of fewer than ``batch_size`` rows.
        round: number of the round, for ``shuffle`` with a ``seed``; None to have it counted.

    Raises:
        UsageError: an argument is out of range, or has no effect without another one.
    """
    if not name:
        raise UsageError("fedbroker.data() was given no name", hint='name a source, as in fedbroker.data("flights")')
    if not shuffle and seed is not None:
        raise UsageError("seed has no effect without shuffle", hint="add shuffle=True, or leave out seed")
    if round is not None and seed is None:
        raise UsageError("round has no effect without seed", hint="add shuffle=True and seed, or leave out round")
    if drop_remainder and batch_size is None:
        raise UsageError("drop_remainder has no effect without batch_size", hint="say how many rows: batch_size=32")
    return SiloData(
        name,
        None if batch_size is None else _whole("batch_size", batch_size, 1),
        epochs=_whole("epochs", epochs, 1),
        shuffle=_flag("shuffle", shuffle, "; all rows of a client are shuffled, without a buffer"),
        seed=None if seed is None else _whole("seed", seed, None),
        limit=None if limit is None else _whole("limit", limit, 1),
        drop_remainder=_flag("drop_remainder", drop_remainder),
        round=None if round is None else _whole("round", round, 0),
    )


# Not every caller is type-checked: both take any object.


def _whole(what: str, number: object, least: int | None) -> int:
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise UsageError(f"{what} is {number!r}", hint="it must be a whole number")
    whole = int(number)
    if least is not None and not least <= whole <= MOST:
        raise UsageError(f"{what} is {whole}", hint=f"it must be at least {least} and at most {MOST}")
    return whole


def _flag(what: str, value: object, more: str = "") -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{what} is {value!r}", hint=f"it must be True or False{more}")
    return value
