"""What comes back for a work item, and who waits for it: each answer is handed over once, the rest is late.

Plain state around futures; imports wire and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, DeadlineExceeded, WireError
from fedbroker.transport.amqp.exceptions import Unroutable
from fedbroker.wire.messages import Done, Failed, Need, WorkItem

__all__ = ["Answer", "Dead", "PendingRequest", "Reason", "ReplyRouter", "ReplySlot", "correlation", "dead"]

Reason: TypeAlias = Literal["expired", "delivery_limit", "rejected", "unroutable"]


@dataclass(frozen=True, slots=True)
class Dead:
    """The broker gave a work item back.

    Attributes:
        silo: whom it was for.
        session: its session.
        stage: its stage.
        reason: ``expired`` (nobody picked it up in time), ``delivery_limit`` (picked up again and again, never
            acknowledged), ``rejected`` (the silo could not read it), ``unroutable`` (that silo has no queue).
    """

    silo: str
    session: str
    stage: int
    reason: Reason


Answer: TypeAlias = Done | Failed | Need | Dead


class ReplySlot:
    """The answers to one work item, one after another; at most one waits to be taken.

    Attributes:
        message_id: of the message that the item went out with.
        item: the work item.
    """

    def __init__(self, message_id: str, item: WorkItem) -> None:
        self.message_id = message_id
        self.item = item
        self._next: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    @property
    def next(self) -> asyncio.Future[Answer]:
        """Done once there is one to be taken; not to be cancelled."""
        return self._next

    def take(self) -> Answer:
        """The one that has come; :attr:`next` is of the one after it from now on.

        Raises:
            BrokerError: nothing comes any more.
        """
        answer = self._next.result()
        self._next = asyncio.get_running_loop().create_future()
        return answer

    def put(self, answer: Answer) -> bool:
        """Hand one over; False if there is one already that nobody has taken."""
        if self._next.done():
            return False
        self._next.set_result(answer)
        return True

    def close(self, error: Exception) -> None:
        """Nothing comes any more."""
        if not self._next.done():
            self._next.set_exception(error)
            self._next.exception()  # whoever waits is told; where nobody does, nobody has to be


class ReplyRouter:
    """The answers that are waited for.

    Args:
        on_late: called for each that nobody waits for.

    Attributes:
        late: how many those were.
    """

    late: int

    def __init__(self, on_late: Callable[[Answer], None]) -> None:
        self._on_late = on_late
        self._waiting: dict[str, ReplySlot] = {}
        self.late = 0

    def __len__(self) -> int:
        """How many are waited for now."""
        return len(self._waiting)

    @contextmanager
    def replies_to(self, item: WorkItem, message_id: str) -> Iterator[ReplySlot]:
        """The answers to a work item, for which somebody waits within the block."""
        key = correlation(item)
        answers = ReplySlot(message_id, item)
        self._waiting[key] = answers
        try:
            yield answers
        finally:
            if self._waiting.get(key) is answers:
                del self._waiting[key]

    def settle(self, answer: Answer, message_id: str | None = None) -> bool:
        """Hand an answer to who waits for it; False if nobody does.

        A dead letter is for them only if it is of the very message, ``message_id``, that is waited for.
        """
        waiting = self._waiting.get(correlation(answer))
        if waiting is not None and message_id in (None, waiting.message_id) and waiting.put(answer):
            return True
        self.late += 1
        self._on_late(answer)
        return False

    def waits_for(self, answer: Answer) -> bool:
        """Whether somebody waits for answers like that one."""
        return correlation(answer) in self._waiting

    def refuse(self, silo: str, cause: str, hint: str) -> None:
        """Answer whatever is waited for from one silo, in its place."""
        for waiting in list(self._waiting.values()):
            item = waiting.item
            if item.silo == silo:
                waiting.put(Failed(item.session, item.stage, silo, "", "refused", cause, hint))

    def close(self, error: Exception) -> None:
        """Nothing comes any more."""
        for waiting in self._waiting.values():
            waiting.close(error)
        self._waiting.clear()


def correlation(of: WorkItem | Answer) -> str:
    """What a work item and its answers have in common."""
    return f"{of.session}.{of.stage}.{of.silo}"


def dead(correlation_id: str, death: str) -> Dead:
    """A work item that came back, by its :func:`correlation`; ``death`` is the broker's word for why.

    Raises:
        WireError: that belongs to no work item.
    """
    session, stage, silo, *more = [*correlation_id.split("."), "", ""]
    if not silo or any(more) or not stage.isdecimal():
        raise WireError(f"what came back belongs to no work item: {correlation_id!r}")
    reasons: dict[str, Reason] = {"expired": "expired", "delivery_limit": "delivery_limit"}
    return Dead(silo, session, int(stage), reasons.get(death, "rejected"))


class PendingRequest:
    """Hears what comes back for a work item.

    Made by :meth:`fedbroker.transport.coordinator.transport.CoordinatorTransport.asking`.

    Args:
        answers: where its answers arrive.
        publishing: of the item; cancelled once an answer says that it has arrived.
        deadline: for all answers.
        opening: called with each answer that has results, so that those that come sealed are opened.
    """

    def __init__(
        self,
        answers: ReplySlot,
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
