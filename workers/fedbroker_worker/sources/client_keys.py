"""The keys of clients as Python values: their text, and the order of the clients.

Plain functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fedbroker_worker.sources.clients import Clients

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedbroker_worker.sources.cells import Array

__all__ = ["clients_among", "words_of"]


def clients_among(column: str, keys: Iterable[object], *, listed: bool = False) -> Clients:
    """Return the clients with these keys: in the keys' order if they can be compared, else in the order of their text.

    Args:
        column: the column with the keys.
        keys: the keys, without None; may repeat.
        listed: True if a separate query yields the keys.
    """
    words = {word_of(key): key for key in keys}
    try:
        ordered = sorted(words, key=lambda word: cast("Any", (words[word], word)))
    except TypeError:
        ordered = sorted(words)
    return Clients(column, tuple(ordered), listed)


def words_of(keys: Sequence[object]) -> Array:
    """Return keys as text, by which they are compared; masked where a key is None."""
    words = np.empty(len(keys), dtype=object)
    words[:] = ["" if key is None else word_of(key) for key in keys]
    masked: Array = np.ma.masked_array(words, mask=[key is None for key in keys])  # type: ignore[no-untyped-call]
    return masked if None in keys else words


def word_of(key: object) -> str:
    """Return a key as text: ``true`` and ``false`` as in SQL, and bytes that are not UTF-8 with backslash escapes."""
    if isinstance(key, bool | np.bool_):
        return str(key).lower()
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key).decode(errors="backslashreplace")
    return str(key)
