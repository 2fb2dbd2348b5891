"""Several clients among Python's values: which keys there are, and in what order.

Plain functions. Imports the package's clients and cells.
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
    """The clients with these keys: in their order where they have one (numbers by size), else in that of their text.

    Args:
        column: whose values they are.
        keys: none of them None; the same one may stand more than once.
        listed: a query of their own yields them.
    """
    words = {word_of(key): key for key in keys}
    try:
        ordered = sorted(words, key=lambda word: cast("Any", (words[word], word)))
    except TypeError:
        ordered = sorted(words)
    return Clients(column, tuple(ordered), listed)


def words_of(keys: Sequence[object]) -> Array:
    """Keys as text, by which they are compared; masked where one is None."""
    words = np.empty(len(keys), dtype=object)
    words[:] = ["" if key is None else word_of(key) for key in keys]
    masked: Array = np.ma.masked_array(words, mask=[key is None for key in keys])  # type: ignore[no-untyped-call]
    return masked if None in keys else words


def word_of(key: object) -> str:
    """A key as text; ``true`` and ``false`` as SQL writes them, bytes that are no text by their escapes."""
    if isinstance(key, bool | np.bool_):
        return str(key).lower()
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key).decode(errors="backslashreplace")
    return str(key)
