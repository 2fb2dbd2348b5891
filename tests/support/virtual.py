"""A network of made-up silos at the transport's boundary, on a clock that jumps: thousands of schedules in seconds.

Our own messages, encoded and decoded, go through the real coordinator's end and the real session; only the links to the
broker are replaced. What claims to show the broker uses a real one.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from fedbroker.transport.coordinator.transport import CoordinatorTransport
from fedbroker.wire import decode, digest_of, encode
from fedbroker.wire.messages import Done, Failed, WorkItem

T = TypeVar("T")


class _Clock(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Time passes only when everybody waits, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def read(self) -> float:
        """What ``time.monotonic`` returns meanwhile."""
        return self.now

    def select(self, timeout: float | None = None):
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


def run_virtually(coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it on a loop whose clock jumps to whatever is due next; ``time.monotonic`` is that clock."""
    clock = _Clock()
    with mock.patch("time.monotonic", clock.read):
        loop = asyncio.SelectorEventLoop(clock)
        try:
            return loop.run_until_complete(coroutine())
        finally:
            loop.close()


@dataclass(frozen=True)
class Reply:
    """What comes back for a work item: ``after`` seconds, ``kind`` is ``done``, ``lost``, ``data`` or ``dead``."""

    after: float
    kind: str = "done"


class Network:
    """Silos by what they reply, for each stage, to their work items: any number of replies, in any order.

    Attributes:
        sent: silo and stage of each work item that was published.
    """

    def __init__(self, end: CoordinatorTransport, script: Callable[[str, int], Sequence[Reply]], value) -> None:
        self.end = end
        self.script = script
        self.value = value
        self.sent: list[tuple[str, int]] = []
        self._coming: set[asyncio.Task[None]] = set()
        end._control = end._bulk = self  # type: ignore[assignment]

    async def publish(self, message, deadline) -> None:
        """What the coordinator's end hands to the broker."""
        word = decode(message.body).message
        if isinstance(word, WorkItem):
            self.sent.append((word.silo, word.stage))
            for reply in self.script(word.silo, word.stage):
                self._later(self._reply(word, message, reply))

    publish_routed = publish

    async def quiet(self) -> None:
        """Until everything that was under way has come."""
        while self._coming:
            await asyncio.wait(self._coming)

    def _later(self, coroutine) -> None:
        task = asyncio.create_task(coroutine)
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _reply(self, item: WorkItem, message, reply: Reply) -> None:
        after = message.expiration if reply.kind == "dead" else reply.after
        await asyncio.sleep(after)
        key = f"{item.reply_to}.{item.session}.{item.stage}.{item.silo}"
        body, death = b"", None
        match reply.kind:
            case "done":
                output = str(self.value(item.silo, item.stage)).encode()
                said = Done(item.session, item.stage, item.silo, "1", ((digest_of(output), len(output)),), after / 2)
                body = encode(said, [output])
            case "dead":
                body, death = message.body, "expired"
            case kind:
                body = encode(Failed(item.session, item.stage, item.silo, "1", kind, "it died"))  # type: ignore[arg-type]
        delivery = SimpleNamespace(
            body=body,
            key=key,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            death=death,
            ack=_nothing,
        )
        await self.end._on_callback(delivery)  # type: ignore[arg-type]


async def _nothing() -> None:
    pass
