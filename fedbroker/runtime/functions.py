"""Computations that stay in an executor of the C++ runtime from one user to the next. Plain; imports nothing of ours.

Each round calls the same few: to hand one over again costs a request, and the runtime a copy and a look into it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["ROOM", "Functions"]

ROOM: Final = 64 << 20
"""Bytes of computations that are kept while nobody uses them."""


@dataclass(slots=True)
class _Function:
    id: str
    size: int
    users: int = 0


class Functions:
    """Of one executor: what each is called in the runtime, and who uses it.

    Args:
        room: bytes of those that are kept while nobody uses them.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._known: OrderedDict[str, _Function] = OrderedDict()  # the last used last
        self._bytes = 0

    def use(self, name: str) -> str | None:
        """The id of a function that is there, which stays as long as it is used; None where it is not."""
        function = self._known.get(name)
        if function is None:
            return None
        function.users += 1
        self._known.move_to_end(name)
        return function.id

    def add(self, name: str, identity: str, size: int) -> bool:
        """Keep one that was made, in use by who made it; False where somebody else's is there already."""
        if name in self._known:
            return False
        self._known[name] = _Function(identity, size, 1)
        self._bytes += size
        return True

    def release(self, names: Iterable[str]) -> list[str]:
        """One user needs those no more.

        Returns:
            The ids of what is to be disposed of, since there is no room for it: the longest unused first.
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
