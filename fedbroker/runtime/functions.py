"""Computations that stay in an executor of the C++ runtime from one user to the next.

Each round calls the same few computations. Sending one again costs a request, and the runtime a copy and a parse.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["ROOM", "Functions"]

ROOM: Final = 64 << 20
"""Maximal size in bytes of the unused computations that are kept."""


@dataclass(slots=True)
class _Function:
    id: str
    size: int
    users: int = 0


class Functions:
    """The functions in one executor: their ids in the runtime, and their numbers of users.

    Args:
        room: maximal size in bytes of the unused functions that are kept.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._known: OrderedDict[str, _Function] = OrderedDict()  # least recently used first
        self._bytes = 0

    def use(self, name: str) -> str | None:
        """Return the id of a cached function, which stays as long as it is used; None if it is not cached."""
        function = self._known.get(name)
        if function is None:
            return None
        function.users += 1
        self._known.move_to_end(name)
        return function.id

    def add(self, name: str, identity: str, size: int) -> bool:
        """Add a function with its maker as first user. Return False if another user's is cached already."""
        if name in self._known:
            return False
        self._known[name] = _Function(identity, size, 1)
        self._bytes += size
        return True

    def release(self, names: Iterable[str]) -> list[str]:
        """Release one user's functions.

        Returns:
            The ids of the functions to dispose of for lack of room, longest unused first.
        """
        for name in names:
            self._known[name].users -= 1
        gone: list[str] = []
        unused = deque(name for name, function in self._known.items() if function.users == 0)
        while self._bytes > self._room and unused:
            function = self._known.pop(unused.popleft())
            self._bytes -= function.size
            gone.append(function.id)
        return gone
