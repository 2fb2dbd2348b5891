"""Pending requests: replies and dead letters are routed to the request that waits for them, and all others are late.

Plain state around futures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, DeadlineExceeded, WireError
from fedbroker.lru import LruMap
from fedbroker.transport.amqp.exceptions import Unroutable
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import Done, Failed, MaskReply, Need, WorkItem

__all__ = [
    "Dead",
    "MaskHandler",
    "MisbehaviourCounter",
    "PendingRequest",
    "Reason",
    "ReplyRouter",
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

MaskHandler: TypeAlias = Callable[[MaskReply, Buffer], None]
"""Function that takes a silo's message of a masked sum, and its content; must not block or raise."""

MAX_MASKED_STAGES: Final = 256
"""Number of recent masked stages whose late messages are no fault of a silo: masks are removed as soon as enough silos
have answered, so that the others' answers are late in each stage."""


class PendingRequest:
    """A work item that is being published, and its responses; holds at most one response that is not taken yet.

    Created by :meth:`fedbroker.transport.coordinator.transport.CoordinatorTransport.start_request`.

    Args:
        item: the work item.
        message_id: id of the message that carries the work item.
        publishing: the task that publishes the item; cancelled when a response shows that the item has arrived.
        deadline: for all responses.
        on_done: called with each ``done`` reply, to decrypt its sealed outputs.
    """

    def __init__(
        self,
        item: WorkItem,
        message_id: str,
        publishing: asyncio.Task[None],
        deadline: Deadline,
        on_done: Callable[[Done], object] = lambda _: None,
    ) -> None:
        self.item = item
        self.message_id = message_id
        self._publishing = publishing
        self._deadline = deadline
        self._on_done = on_done
        self._next: asyncio.Future[Response] = asyncio.get_running_loop().create_future()  # must not be cancelled

    def put(self, response: Response) -> bool:
        """Hand over a response; return False if the previous one was not taken yet."""
        if self._next.done():
            return False
        self._next.set_result(response)
        return True

    def close(self, error: Exception) -> None:
        """Let the pending ``next_response`` fail with an error: no further response will come."""
        if not self._next.done():
            self._next.set_exception(error)
            self._next.exception()  # marks it as retrieved: asyncio must not log it if no request waits

    async def next_response(self) -> Response:
        """Return the next response; may be cancelled, and called again.

        Raises:
            DeadlineExceeded: no response came in time; ``silos`` names the silo.
            BrokerRefused: no permission, or the broker's limits are below ours.
            WireError: the item exceeds the limits.
        """
        item = self.item
        waited: tuple[asyncio.Future[Any], ...] = (self._publishing, self._next)
        try:
            async with asyncio.timeout(self._deadline.left()):
                # A response before the broker's confirmation proves that the item arrived.
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if not self._next.done() and not self._publishing.cancelled():
                    self._publishing.result()  # raises if publishing failed
                await asyncio.wait((self._next,))
            self._publishing.cancel()
            response = self._next.result()
        except Unroutable:
            return Dead(item.silo, item.session_id, item.stage, "unroutable")
        except (TimeoutError, BrokerLost) as error:
            reason = f" ({error.what})" if isinstance(error, BrokerLost) else ""
            raise DeadlineExceeded(
                f"silo {item.silo!r} did not answer stage {item.stage} in time{reason}",
                silos=(item.silo,),
                stage=item.stage,
                session=item.session_id,
                hint="see the silo's log, or allow more time",
            ) from None
        self._next = asyncio.get_running_loop().create_future()
        if isinstance(response, Done):
            self._on_done(response)
        return response


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
        self._requests: dict[str, PendingRequest] = {}
        self._mask_handlers: dict[tuple[str, int], MaskHandler] = {}
        self._masked_stages: LruMap[tuple[str, int], None] = LruMap(MAX_MASKED_STAGES)
        self.late = 0

    def __len__(self) -> int:
        """Return the number of pending requests."""
        return len(self._requests)

    @contextmanager
    def registered(self, request: PendingRequest) -> Generator[None]:
        """Route replies to a request within the block."""
        key = correlation(request.item)
        self._requests[key] = request
        try:
            yield
        finally:
            if self._requests.get(key) is request:
                del self._requests[key]

    def settle(self, response: Response, message_id: str | None = None) -> bool:
        """Hand a reply to the request that waits for it; return False if it is late.

        A dead letter counts only if its ``message_id`` is the one of the pending request: an earlier message for the
        same work item may still die.
        """
        request = self._requests.get(correlation(response))
        if request is not None and message_id in (None, request.message_id) and request.put(response):
            return True
        self.late += 1
        self._on_late(response)
        return False

    @contextmanager
    def mask_replies(self, session_id: str, stage: int, handler: MaskHandler) -> Generator[None]:
        """Pass the silos' messages of a stage's masked sum to a handler within the block."""
        self._mask_handlers[session_id, stage] = handler
        self._masked_stages[session_id, stage] = None
        try:
            yield
        finally:
            del self._mask_handlers[session_id, stage]

    def settle_masks(self, reply: MaskReply, content: Buffer) -> bool:
        """Pass on a silo's message of a masked sum; return False if no recent stage of ours expects any."""
        stage = reply.session_id, reply.stage
        handler = self._mask_handlers.get(stage)
        if handler is not None:
            handler(reply, content)
        return stage in self._masked_stages

    def waits_for(self, response: Response) -> bool:
        """Return whether a request is pending for the work item of this reply."""
        return correlation(response) in self._requests

    def refuse(self, silo: str, cause: str, hint: str) -> None:
        """Answer all pending requests to one silo with a refusal, in place of the silo."""
        for request in list(self._requests.values()):
            item = request.item
            if item.silo == silo:
                request.put(Failed(item.session_id, item.stage, silo, "", "refused", cause, hint))

    def close(self, error: Exception) -> None:
        """Let all pending requests fail with an error."""
        for request in self._requests.values():
            request.close(error)
        self._requests.clear()


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
