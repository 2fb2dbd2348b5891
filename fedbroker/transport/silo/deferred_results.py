"""Deferred outputs: a silo announces them, and sends them when the coordinator has room for them.

Plain state around futures.
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
    session_id: str
    stage: int
    incarnation: str


class DeferredResults:
    """Replies whose outputs wait for the coordinator's ``fetch`` notice."""

    def __init__(self) -> None:
        self._waiting: dict[_Deferred, asyncio.Future[bool]] = {}

    @contextmanager
    def until_fetched(self, reply: Done, by: str = "") -> Iterator[Callable[[Deadline], Awaitable[bool]]]:
        """Accept the ``fetch`` notice for a reply within the block; yield a function that waits for it.

        Only a notice of the work item's signer counts, whose fingerprint is ``by``. The function returns False if the
        outputs must not be sent, because the coordinator does not want them or because a later reply announced the same
        outputs. It raises ``BrokerLost`` if no notice comes by the deadline.
        """
        results = _Deferred(by, reply.session_id, reply.stage, reply.incarnation)
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
        """Handle a coordinator's notice; ``by`` is the fingerprint of its signer."""
        self._settle(_Deferred(by, word.session_id, word.stage, word.incarnation), to_be_sent=word.wanted)

    def _settle(self, results: _Deferred, *, to_be_sent: bool) -> None:
        heard = self._waiting.get(results)
        if heard is not None and not heard.done():
            heard.set_result(to_be_sent)
