"""Parts for federated programs (``tff.program``, ``tff.learning.programs``): silos' data, and release of metrics."""

from __future__ import annotations

import asyncio
import random
import secrets
from dataclasses import replace
from typing import Any

import msgspec
import tensorflow_federated as tff
from tensorflow_federated.python.program import serialization_utils

from fedbroker.context.run import current_run, flat_metrics
from fedbroker.context.values.data import Draw, SiloData, data
from fedbroker.errors import UsageError
from fedbroker.tracking.tracker import Tracker

__all__ = ["SiloDataSource", "SiloDataSourceIterator", "TrackingReleaseManager"]


class SiloDataSource(tff.program.FederatedDataSource):  # type: ignore[misc]  # TFF has no types
    """Each silo's own data source of one name, as a data source of a federated program.

    With ``shuffle``, each selection is a round of its own: a restored program continues with the orders that would have
    come next.

    Args:
        name: of the data source in each silo's settings, ``[data.NAME]``.
        type: the type of one client's data; see :func:`fedbroker.data` for how it is bound.
        batch_size: rows in each element of a sequence; None for single rows.
        epochs: number of times that each row comes in the sequence.
        shuffle: shuffle all rows of a client, each epoch by itself.
        seed: seed of the selections and of the orders; None for a random one.
        limit: rows in each epoch; None for all.
        drop_remainder: leave out a last batch of fewer than ``batch_size`` rows.

    Raises:
        UsageError: the name is empty, or an option is out of range; see :func:`fedbroker.data`.
    """

    def __init__(
        self,
        name: str,
        type: Any,  # noqa: ANN401
        *,
        batch_size: int | None = None,
        epochs: int = 1,
        shuffle: bool = False,
        seed: int | None = None,
        limit: int | None = None,
        drop_remainder: bool = False,
    ) -> None:
        self._handle = data(
            name, batch_size=batch_size, epochs=epochs, shuffle=shuffle, limit=limit, drop_remainder=drop_remainder
        )
        self._federated_type = tff.FederatedType(tff.types.to_type(type), tff.CLIENTS)
        self._seed = secrets.randbits(63) if seed is None else seed

    @property
    def federated_type(self) -> tff.FederatedType:
        """``{type}@CLIENTS``."""
        return self._federated_type

    def iterator(self) -> SiloDataSourceIterator:
        """Return an iterator over the silos; all iterators of one source make the same selections."""
        return SiloDataSourceIterator(self._handle, self._federated_type, self._seed)


class _State(msgspec.Struct, frozen=True, omit_defaults=True):
    """The saved state; what has a default is missing in states of earlier versions."""

    name: str
    batch_size: int | None
    seed: int
    selections: int
    epochs: int = 1
    shuffle: bool = False
    limit: int | None = None
    drop_remainder: bool = False


class SiloDataSourceIterator(tff.program.FederatedDataSourceIterator):  # type: ignore[misc]  # TFF has no types
    """Selects silos uniformly at random, independently each time; made by :meth:`SiloDataSource.iterator`.

    The selection takes place when the computation runs, among the silos that are present and have the data, so an
    iterator needs no connection. It can be saved with a program's state; a restored iterator continues with the
    selections that would have come next.
    """

    def __init__(self, handle: SiloData, federated_type: tff.FederatedType, seed: int, selections: int = 0) -> None:
        self._handle = handle
        self._federated_type = federated_type
        self._seed = seed
        self._selections = selections

    @property
    def federated_type(self) -> tff.FederatedType:
        """Type of the selected data."""
        return self._federated_type

    def select(self, k: int | None = None) -> SiloData:
        """Return a handle for the data of ``k`` silos, or of all silos of the session if ``k`` is None.

        An invocation with it waits until that many silos with the data are present.

        Raises:
            UsageError: ``k`` is not a positive number.
        """
        draw = None
        if k is not None:
            # Not every caller is type-checked.
            if not isinstance(k, int) or k < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(f"{k!r} silos cannot be selected", hint="select at least 1, or None for all")
            draw = Draw(k, random.Random(f"{self._seed}/{self._selections}").getrandbits(63))
        handle = replace(self._handle, draw=draw)
        if handle.shuffle:
            handle = replace(handle, seed=self._seed, round=self._selections)
        # Without a draw and without an order, nothing of the state is used.
        self._selections += draw is not None or handle.shuffle
        return handle

    def to_bytes(self) -> bytes:
        """Serialize the iterator, for a program's state."""
        handle = self._handle
        state = _State(
            handle.name,
            handle.batch_size,
            self._seed,
            self._selections,
            handle.epochs,
            handle.shuffle,
            handle.limit,
            handle.drop_remainder,
        )
        packed = serialization_utils.pack_str(msgspec.json.encode(state).decode())
        return bytes(packed + serialization_utils.pack_type_spec(self._federated_type))

    @classmethod
    def from_bytes(cls, buffer: bytes) -> SiloDataSourceIterator:
        """Restore an iterator from the result of :meth:`to_bytes`."""
        text, size = serialization_utils.unpack_str_from(buffer)
        type_, _ = serialization_utils.unpack_type_spec_from(buffer, offset=size)
        state = msgspec.json.decode(text, type=_State)
        handle = SiloData(
            state.name,
            state.batch_size,
            epochs=state.epochs,
            shuffle=state.shuffle,
            limit=state.limit,
            drop_remainder=state.drop_remainder,
        )
        return cls(handle, type_, state.seed, state.selections)

    def __deepcopy__(self, memo: object) -> SiloDataSourceIterator:
        # Its parts are immutable, and TFF's struct types cannot be copied. ``train_model`` copies iterators each round.
        return SiloDataSourceIterator(self._handle, self._federated_type, self._seed, self._selections)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SiloDataSourceIterator):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]  # its value changes with each selection


class TrackingReleaseManager(tff.program.ReleaseManager):  # type: ignore[misc]  # TFF has no types
    """Releases a program's metrics to trackers and to the run in whose ``with`` block the program is.

    It works next to TFF's own release managers. Several with different prefixes may share trackers.

    Args:
        trackers: see :class:`fedbroker.tracking.Tracker`. They stay open; close them after the program.
        prefix: put before each metric's name, such as ``"eval/"``.
    """

    def __init__(self, *trackers: Tracker, prefix: str = "") -> None:
        self._trackers = trackers
        self._prefix = prefix

    async def release(self, value: Any, key: int) -> None:  # noqa: ANN401
        """Release the numbers of a round's metrics; all else, such as a model's weights, is left out.

        Args:
            value: a structure of numbers, or of references to them.
            key: the number of the round.
        """
        flat = flat_metrics(await tff.program.materialize_value(value))
        metrics = {f"{self._prefix}{name}": number for name, number in flat.items()}
        for tracker in self._trackers:
            await asyncio.to_thread(tracker, int(key), metrics)  # it writes files, or asks a server
        run = current_run()
        if run is not None and key >= 1:  # TFF counts an evaluation before the first round as 0
            run.report(metrics, round=int(key))
