"""A work item that was handed to the broker: what comes back for it, one answer after another.

Imports transport's own modules and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, DeadlineExceeded
from fedbroker.transport.answers import Answer, Answers, Dead
from fedbroker.transport.refusals import Unroutable
from fedbroker.wire.messages import Done

__all__ = ["Asked"]


class Asked:
    """Hears what comes back for a work item; made by :meth:`fedbroker.transport.coordinator.CoordinatorEnd.asking`.

    Args:
        answers: where its answers arrive.
        publishing: of the item; cancelled once an answer says that it has arrived.
        deadline: for all answers.
        opening: called with each answer that has results, so that those that come sealed are opened.
    """

    def __init__(
        self,
        answers: Answers,
        publishing: asyncio.Task[None],
        deadline: Deadline,
        opening: Callable[[Done], object] = lambda _: None,
    ) -> None:
        self._answers = answers
        self._publishing = publishing
        self._deadline = deadline
        self._opening = opening

    async def answer(self) -> Answer:
        """The next answer; may be cancelled, and called again.

        Raises:
            DeadlineExceeded: none came in time; ``silos`` names the silo.
            BrokerRefused: no permission, or the broker's limits are below ours.
            WireError: the item exceeds the limits.
        """
        item = self._answers.item
        try:
            async with asyncio.timeout(self._deadline.left()):
                return await self._next()
        except Unroutable:
            return Dead(item.silo, item.session, item.stage, "unroutable")
        except (TimeoutError, BrokerLost) as error:
            why = f" ({error.what})" if isinstance(error, BrokerLost) else ""
            raise DeadlineExceeded(
                f"silo {item.silo!r} did not answer stage {item.stage} in time{why}",
                silos=(item.silo,),
                stage=item.stage,
                session=item.session,
                hint="see the silo's log, or allow more time",
            ) from None

    async def _next(self) -> Answer:
        """An answer that is there before the broker has confirmed the item means that it arrived."""
        come: asyncio.Future[Any] = self._answers.next
        if not self._publishing.done():
            await asyncio.wait((self._publishing, come), return_when=asyncio.FIRST_COMPLETED)
        if not come.done() and not self._publishing.cancelled():
            self._publishing.result()  # it may have failed
        await asyncio.wait((come,))
        self._publishing.cancel()
        answer = self._answers.take()
        if isinstance(answer, Done):
            self._opening(answer)
        return answer
