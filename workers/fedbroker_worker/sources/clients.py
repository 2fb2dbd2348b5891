"""Several clients in one source's rows: their keys, and the rows of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from fedbroker.wire.messages import Column
from fedbroker_worker.errors import Problem, SourceError
from fedbroker_worker.sources.arrays import Array, array_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedbroker_worker.sources.protocol import Columns


__all__ = ["Clients", "clients_among", "keys_as_text"]

_RESTART: Final = "start the silo again so that it announces its present clients"


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
        unknown = int(np.count_nonzero(owners < 0))
        if unknown:
            # The error does not quote the keys, because they may name people.
            what = f"{unknown} of {len(keys)} rows are of no client that it announced"
            hint = f"add their {self.column} to the query of 'clients', or, if the data have changed, {_RESTART}"
            raise SourceError(source, what, hint=hint if self.listed else _RESTART, problem=Problem.OTHER_CLIENTS)
        return owners


def clients_among(column: str, keys: Iterable[object], *, listed: bool = False) -> Clients:
    """Return the clients with these keys: in the keys' order if they can be compared, else in the order of their text.

    Args:
        column: the column with the keys.
        keys: the keys, without None; may repeat.
        listed: True if a separate query yields the keys.
    """
    keys_by_text = {key_as_text(key): key for key in keys}
    try:
        ordered = sorted(keys_by_text, key=lambda text: cast("Any", (keys_by_text[text], text)))
    except TypeError:
        ordered = sorted(keys_by_text)
    return Clients(column, tuple(ordered), listed)


def keys_as_text(keys: Sequence[object]) -> Array:
    """Return keys as text, by which they are compared; masked where a key is None."""
    texts = np.empty(len(keys), dtype=object)
    texts[:] = ["" if key is None else key_as_text(key) for key in keys]
    masked = cast("Array", np.ma.masked_array(texts, mask=[key is None for key in keys]))  # type: ignore[no-untyped-call]
    return masked if None in keys else texts


def key_as_text(key: object) -> str:
    """Return a key as text: ``true`` and ``false`` as in SQL, and bytes that are not UTF-8 with backslash escapes."""
    if isinstance(key, bool | np.bool_):
        return str(key).lower()
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(cast("bytes", key)).decode(errors="backslashreplace")
    return str(key)
