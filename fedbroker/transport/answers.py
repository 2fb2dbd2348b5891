"""What comes back for a work item, and who waits for it: each answer is handed over once, the rest is late.

Plain state around futures; imports wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedbroker.wire.messages import Done, Failed, Need, WorkItem

__all__ = ["Answer", "Dead", "Expected", "Reason", "correlation", "dead"]

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


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Somebody waits for the answer to the work item of that message id."""

    message_id: str
    item: WorkItem
    answer: asyncio.Future[Answer]


class Expected:
    """The answers that are waited for.

    Args:
        on_late: called for each that nobody waits for.

    Attributes:
        late: how many those were.
    """

    late: int

    def __init__(self, on_late: Callable[[Answer], None]) -> None:
        self._on_late = on_late
        self._waiting: dict[str, _Waiting] = {}
        self.late = 0

    def __len__(self) -> int:
        """How many are waited for now."""
        return len(self._waiting)

    @contextmanager
    def answer_to(self, item: WorkItem, message_id: str) -> Iterator[asyncio.Future[Answer]]:
        """The answer to a work item, which somebody waits for within the block."""
        key = correlation(item)
        waiting = _Waiting(message_id, item, asyncio.get_running_loop().create_future())
        self._waiting[key] = waiting
        try:
            yield waiting.answer
        finally:
            if self._waiting.get(key) is waiting:
                del self._waiting[key]

    def settle(self, answer: Answer, message_id: str | None = None) -> bool:
        """Hand an answer to who waits for it; False if nobody does.

        A dead letter is for them only if it is of the very message, ``message_id``, that is waited for.
        """
        waiting = self._waiting.get(correlation(answer))
        if waiting is None or waiting.answer.done() or message_id not in (None, waiting.message_id):
            self.late += 1
            self._on_late(answer)
            return False
        waiting.answer.set_result(answer)
        return True

    def refuse(self, silo: str, cause: str, hint: str) -> None:
        """Answer whatever is waited for from one silo, in its place."""
        for waiting in list(self._waiting.values()):
            item = waiting.item
            if item.silo == silo and not waiting.answer.done():
                waiting.answer.set_result(Failed(item.session, item.stage, silo, "", "refused", cause, hint))

    def close(self, error: Exception) -> None:
        """Nothing comes any more."""
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
        self._waiting.clear()


def correlation(of: WorkItem | Answer) -> str:
    """What a work item and its answers have in common."""
    return f"{of.session}.{of.stage}.{of.silo}"


def dead(item: WorkItem, death: str) -> Dead:
    """A work item that came back; ``death`` is the broker's word for why."""
    reasons: dict[str, Reason] = {"expired": "expired", "delivery_limit": "delivery_limit"}
    return Dead(item.silo, item.session, item.stage, reasons.get(death, "rejected"))
