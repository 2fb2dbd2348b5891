"""A map of bounded size, which forgets the entries that were used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

__all__ = ["LruMap"]

K = TypeVar("K")
V = TypeVar("V")


class LruMap(OrderedDict[K, V]):
    """A map of at most ``most`` entries; one more evicts the entry that was used longest ago.

    Setting an entry and :meth:`use` count as use; other ways of reading do not.

    Args:
        most: largest number of entries.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)

    def use(self, key: K) -> V | None:
        """Return the value of a key, which is then the one that was used last; None if the map does not have it."""
        if key not in self:
            return None
        self.move_to_end(key)
        return self[key]
