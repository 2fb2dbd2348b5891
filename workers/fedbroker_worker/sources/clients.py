"""Several clients in one source's rows: their keys, and the rows of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fedbroker.wire.messages import Column
from fedbroker_worker.errors import SourceError
from fedbroker_worker.problems import Problem
from fedbroker_worker.sources.cells import Array, array_of

if TYPE_CHECKING:
    from fedbroker_worker.sources.protocol import Columns

__all__ = ["Clients"]

_AGAIN: Final = "start the silo again so that it announces its clients anew"


@dataclass(frozen=True, slots=True)
class Clients:
    """The announced clients of a source.

    Attributes:
        column: a column of the source's query; rows with the same value in it belong to one client.
        keys: these values as text, each once, in the order of the clients.
        listed: True if a separate query yields the keys, not the rows.
    """

    column: str
    keys: tuple[str, ...]
    listed: bool

    def deal(self, source: str, rows: Columns, cells: Array) -> list[Columns]:
        """Divide the rows by client; each client's rows keep their order.

        Args:
            source: the source's name, for errors.
            rows: the columns with the rows of all clients.
            cells: the key of each row as text; masked if it is NULL.

        Returns:
            One mapping for each of ``keys``; a client without rows has arrays of length 0.

        Raises:
            ColumnError: the key of a row is NULL.
            SourceError: the key of a row is not among ``keys``.
        """
        owners = self._owners(source, array_of(source, Column(self.column, "str"), cells))
        order = np.argsort(owners, kind="stable")
        ends = np.cumsum(np.bincount(owners, minlength=len(self.keys)))
        dealt = {name: np.split(array[order], ends[:-1]) for name, array in rows.items()}
        return [{name: pieces[at] for name, pieces in dealt.items()} for at in range(len(self.keys))]

    def _owners(self, source: str, keys: Array) -> Array:
        """Return the number of each row's client."""
        numbers = {key: at for at, key in enumerate(self.keys)}
        owners = np.fromiter((numbers.get(key, -1) for key in keys), np.int64, len(keys))
        strangers = int(np.count_nonzero(owners < 0))
        if strangers:
            # The error does not quote the keys, because they may name people.
            what = f"{strangers} of {len(keys)} rows are of no client that it announced"
            hint = f"add their {self.column} to the query of 'clients', or, if the data have changed, {_AGAIN}"
            raise SourceError(source, what, hint=hint if self.listed else _AGAIN, problem=Problem.OTHER_CLIENTS)
        return owners
