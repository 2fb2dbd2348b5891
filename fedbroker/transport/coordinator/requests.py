"""Pending requests: replies and dead letters are routed to the request that waits for them, and all others are late.

Plain state around futures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, DeadlineExceeded, WireError
from fedbroker.transport.amqp.exceptions import Unroutable
from fedbroker.wire.messages import Done, Failed, Need, WorkItem

__all__ = [
    "Dead",
    "MisbehaviourCounter",
    "PendingRequest",
    "Reason",
    "ReplyRouter",
    "ReplySlot",
    "Response",
    "correlation",
    "dead_letter_of",
]

Reason: TypeAlias = Literal["expired", "delivery_limit", "rejected", "unroutable"]


@dataclass(frozen=True, slots=True)
class Dead:
    """A work item that the broker dead-lettered or could not route.

    Attributes:
        silo: the silo that it was for.
        session_id: the session's id.
        stage: the stage's number.
        reason: ``expired`` (not picked up in time), ``delivery_limit`` (delivered repeatedly, never acknowledged),
            ``rejected`` (the silo could not read it), ``unroutable`` (the silo has no queue).
    """

    silo: str
    session_id: str
    stage: int
    reason: Reason


Response: TypeAlias = Done | Failed | Need | Dead


class ReplySlot:
    """The replies to one work item, one after another; holds at most one reply that is not taken yet.

    Attributes:
        message_id: id of the message that carried the work item.
        item: the work item.
    """

    def __init__(self, message_id: str, item: WorkItem) -> None:
        self.message_id = message_id
        self.item = item
        self._next: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    @property
    def next(self) -> asyncio.Future[Response]:
        """Done when a reply can be taken; must not be cancelled."""
        return self._next

    def take(self) -> Response:
        """Return the reply that has arrived; :attr:`next` then stands for the reply after it.

        Raises:
            BrokerError: the slot is closed, and no reply will come.
        """
        response = self._next.result()
        self._next = asyncio.get_running_loop().create_future()
        return response

    def put(self, response: Response) -> bool:
        """Hand over a reply; return False if the previous one was not taken yet."""
        if self._next.done():
            return False
        self._next.set_result(response)
        return True

    def close(self, error: Exception) -> None:
        """Let the pending ``take`` fail with an error: no further reply will come."""
        if not self._next.done():
            self._next.set_exception(error)
            self._next.exception()  # marks it as retrieved: asyncio must not log it if no request waits


class ReplyRouter:
    """Routes replies and dead letters to the pending request for the same work item.

    Args:
        on_late: called for each reply that no request waits for.

    Attributes:
        late: number of these replies.
    """

    late: int

    def __init__(self, on_late: Callable[[Response], None]) -> None:
        self._on_late = on_late
        self._slots: dict[str, ReplySlot] = {}
        self.late = 0

    def __len__(self) -> int:
        """Return the number of pending requests."""
        return len(self._slots)

    @contextmanager
    def replies_to(self, item: WorkItem, message_id: str) -> Generator[ReplySlot]:
        """Register a pending request within the block, and yield the slot for its replies."""
        key = correlation(item)
        slot = ReplySlot(message_id, item)
        self._slots[key] = slot
        try:
            yield slot
        finally:
            if self._slots.get(key) is slot:
                del self._slots[key]

    def settle(self, response: Response, message_id: str | None = None) -> bool:
        """Hand a reply to the request that waits for it; return False if it is late.

        A dead letter counts only if its ``message_id`` is the one of the pending request: an earlier message for the
        same work item may still die.
        """
        slot = self._slots.get(correlation(response))
        if slot is not None and message_id in (None, slot.message_id) and slot.put(response):
            return True
        self.late += 1
        self._on_late(response)
        return False

    def waits_for(self, response: Response) -> bool:
        """Return whether a request is pending for the work item of this reply."""
        return correlation(response) in self._slots

    def refuse(self, silo: str, cause: str, hint: str) -> None:
        """Answer all pending requests to one silo with a refusal, in place of the silo."""
        for slot in list(self._slots.values()):
            item = slot.item
            if item.silo == silo:
                slot.put(Failed(item.session_id, item.stage, silo, "", "refused", cause, hint))

    def close(self, error: Exception) -> None:
        """Let all pending requests fail with an error."""
        for slot in self._slots.values():
            slot.close(error)
        self._slots.clear()


def correlation(item: WorkItem | Response) -> str:
    """Return the correlation id that a work item shares with its replies."""
    return f"{item.session_id}.{item.stage}.{item.silo}"


def dead_letter_of(correlation_id: str, death: str) -> Dead:
    """Return the dead work item for a :func:`correlation` id and the broker's reason, ``death``.

    Raises:
        WireError: the id belongs to no work item.
    """
    session_id, stage, silo, *more = [*correlation_id.split("."), "", ""]
    if not silo or any(more) or not stage.isdecimal():
        raise WireError(f"a dead letter belongs to no work item: {correlation_id!r}")
    reasons: dict[str, Reason] = {"expired": "expired", "delivery_limit": "delivery_limit"}
    return Dead(silo, session_id, int(stage), reasons.get(death, "rejected"))


class PendingRequest:
    """Receives the replies to one work item.

    Created by :meth:`fedbroker.transport.coordinator.transport.CoordinatorTransport.start_request`.

    Args:
        slot: the slot that receives the replies.
        publishing: the task that publishes the item; cancelled when a reply shows that the item has arrived.
        deadline: for all replies.
        opening: called with each ``done`` reply, to decrypt its sealed outputs.
    """

    def __init__(
        self,
        slot: ReplySlot,
        publishing: asyncio.Task[None],
        deadline: Deadline,
        opening: Callable[[Done], object] = lambda _: None,
    ) -> None:
        self._slot = slot
        self._publishing = publishing
        self._deadline = deadline
        self._opening = opening

    async def next_response(self) -> Response:
        """Return the next reply; may be cancelled, and called again.

        Raises:
            DeadlineExceeded: no reply came in time; ``silos`` names the silo.
            BrokerRefused: no permission, or the broker's limits are below ours.
            WireError: the item exceeds the limits.
        """
        item = self._slot.item
        try:
            async with asyncio.timeout(self._deadline.left()):
                return await self._next()
        except Unroutable:
            return Dead(item.silo, item.session_id, item.stage, "unroutable")
        except (TimeoutError, BrokerLost) as error:
            why = f" ({error.what})" if isinstance(error, BrokerLost) else ""
            raise DeadlineExceeded(
                f"silo {item.silo!r} did not answer stage {item.stage} in time{why}",
                silos=(item.silo,),
                stage=item.stage,
                session=item.session_id,
                hint="see the silo's log, or allow more time",
            ) from None

    async def _next(self) -> Response:
        """Return the next reply; a reply before the broker's confirmation proves that the item arrived."""
        next_reply: asyncio.Future[Any] = self._slot.next
        if not self._publishing.done():
            await asyncio.wait((self._publishing, next_reply), return_when=asyncio.FIRST_COMPLETED)
        if not next_reply.done() and not self._publishing.cancelled():
            self._publishing.result()  # raises if publishing failed
        await asyncio.wait((next_reply,))
        self._publishing.cancel()
        response = self._slot.take()
        if isinstance(response, Done):
            self._opening(response)
        return response


@dataclass(slots=True)
class _Count:
    since: float
    strikes: int = 0


@dataclass(slots=True)
class MisbehaviourCounter:
    """Strikes of silos that flood their coordinator or send invalid messages, counted over ``seconds``.

    Beyond a limit, a silo's messages are ignored. A silo cannot cause strikes of another one, because the broker checks
    the silo's name in routing keys. Plain state with the time passed in.

    Attributes:
        most: strikes that a silo may have; a few are no fault of the silo (a late reply, a lost connection).
        seconds: time after which a silo's count starts again from zero.
    """

    most: int
    seconds: float = 60.0
    _counts: dict[str, _Count] = field(default_factory=dict[str, _Count])

    def add(self, silo: str, now: float) -> bool:
        """Count one strike; return True if it is the first one beyond the limit."""
        self._forget(now)
        count = self._counts.setdefault(silo, _Count(now))
        count.strikes += 1
        return count.strikes == self.most + 1

    def exceeds_limit(self, silo: str, now: float) -> bool:
        """Return whether a silo is beyond the limit, so that its messages are ignored."""
        count = self._counts.get(silo)
        return count is not None and count.strikes > self.most and now - count.since <= self.seconds

    def _forget(self, now: float) -> None:
        old = [silo for silo, count in self._counts.items() if now - count.since > self.seconds]
        for silo in old:
            del self._counts[silo]
