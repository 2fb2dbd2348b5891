"""Results that a silo has announced, and holds until their coordinator has room for them.

Plain state around futures; imports wire and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost
from fedbroker.wire.messages import Done, Fetch

__all__ = ["DeferredResults"]


class _Deferred(NamedTuple):
    by: str
    session: str
    stage: int
    incarnation: str


class DeferredResults:
    """Who waits for the coordinator's word."""

    def __init__(self) -> None:
        self._waiting: dict[_Deferred, asyncio.Future[bool]] = {}

    @contextmanager
    def until_fetched(self, reply: Done, by: str = "") -> Iterator[Callable[[Deadline], Awaitable[bool]]]:
        """Within the block the word for a reply is heard; what is yielded waits for it.

        It is heard from the signer of the work alone, whose fingerprint is ``by``.

        That returns False where they are not to be sent: nobody wants them, or the same were announced once more
        meanwhile. It raises ``BrokerLost`` where the word does not come by the deadline.
        """
        results = _Deferred(by, reply.session, reply.stage, reply.incarnation)
        heard: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._settle(results, to_be_sent=False)
        self._waiting[results] = heard

        async def wait(deadline: Deadline) -> bool:
            try:
                async with asyncio.timeout(deadline.left()):
                    return await heard
            except TimeoutError:
                raise BrokerLost(
                    "the coordinator did not ask for the results", hint="see whether it is still there"
                ) from None

        try:
            yield wait
        finally:
            if self._waiting.get(results) is heard:
                del self._waiting[results]

    def fetch(self, word: Fetch, by: str = "") -> None:
        """Take a coordinator's word; ``by`` is the fingerprint of its signer."""
        self._settle(_Deferred(by, word.session, word.stage, word.incarnation), to_be_sent=word.wanted)

    def _settle(self, results: _Deferred, *, to_be_sent: bool) -> None:
        heard = self._waiting.get(results)
        if heard is not None and not heard.done():
            heard.set_result(to_be_sent)
