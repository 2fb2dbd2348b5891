"""Results that a silo has announced, and holds until their coordinator has room for them.

Plain state around futures; imports wire and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost
from fedbroker.wire.messages import Done, Fetch

__all__ = ["Held"]


class Held:
    """Who waits for the coordinator's word."""

    def __init__(self) -> None:
        self._waiting: dict[Fetch, list[asyncio.Future[None]]] = {}

    @contextmanager
    def until_fetched(self, reply: Done) -> Iterator[Callable[[Deadline], Awaitable[None]]]:
        """Within the block the word for a reply is heard; what is yielded waits for it.

        That raises ``BrokerLost`` where it does not come by the deadline.
        """
        word = Fetch(reply.session, reply.stage, reply.incarnation)
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(word, []).append(heard)

        async def wait(deadline: Deadline) -> None:
            try:
                async with asyncio.timeout(deadline.left()):
                    await heard
            except TimeoutError:
                raise BrokerLost(
                    "the coordinator did not ask for the results", hint="see whether it is still there"
                ) from None

        try:
            yield wait
        finally:
            waiting = self._waiting[word]
            waiting.remove(heard)
            if not waiting:
                del self._waiting[word]

    def fetch(self, word: Fetch) -> None:
        """The coordinator has room."""
        for heard in self._waiting.get(word, ()):
            if not heard.done():
                heard.set_result(None)
