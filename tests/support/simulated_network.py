"""A simulated network of silos at the transport's boundary, with a virtual clock: thousands of schedules in seconds.

Our own messages, encoded and decoded, pass through the real coordinator's transport and the real session; only the
connections to the broker are replaced. A test that concerns the broker uses a real one.
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
    """A selector on whose clock time passes only while every task waits, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def read(self) -> float:
        """Return the virtual time, in place of ``time.monotonic``."""
        return self.now

    def select(self, timeout: float | None = None):
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


def run_on_virtual_clock(coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop whose clock jumps to the next timer; ``time.monotonic`` is that clock."""
    clock = _Clock()
    with mock.patch("time.monotonic", clock.read):
        loop = asyncio.SelectorEventLoop(clock)
        try:
            return loop.run_until_complete(coroutine())
        finally:
            loop.close()


@dataclass(frozen=True)
class SimulatedReply:
    """A simulated reply after ``after`` seconds; ``kind`` is ``done``, ``lost``, ``data`` or ``dead``."""

    after: float
    kind: str = "done"


class SimulatedNetwork:
    """Silos, given by their replies to the work items of each stage: any number of replies, in any order.

    Attributes:
        sent: silo and stage of each work item that was published.
    """

    def __init__(
        self, end: CoordinatorTransport, script: Callable[[str, int], Sequence[SimulatedReply]], value
    ) -> None:
        self.transport = end
        self.script = script
        self.value = value
        self.sent: list[tuple[str, int]] = []
        self._coming: set[asyncio.Task[None]] = set()
        end._control = end._bulk = self  # type: ignore[assignment]

    async def publish(self, message, deadline, *, route_timeout=0.0) -> None:
        """Accept a message that the coordinator's transport publishes."""
        word = decode(message.body).message
        if isinstance(word, WorkItem):
            self.sent.append((word.silo, word.stage))
            for reply in self.script(word.silo, word.stage):
                self._later(self._reply(word, message, reply))

    async def check(self, message, deadline) -> None:
        """Accept a message that checks the broker."""

    async def quiet(self) -> None:
        """Wait until every pending reply has arrived."""
        while self._coming:
            await asyncio.wait(self._coming)

    def _later(self, coroutine) -> None:
        task = asyncio.create_task(coroutine)
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _reply(self, item: WorkItem, message, reply: SimulatedReply) -> None:
        after = message.expiration if reply.kind == "dead" else reply.after
        await asyncio.sleep(after)
        key = f"{item.coordinator_id}.{item.session_id}.{item.stage}.{item.silo}"
        body, death = b"", None
        match reply.kind:
            case "done":
                output = str(self.value(item.silo, item.stage)).encode()
                said = Done(item.session_id, item.stage, item.silo, "1", ((digest_of(output), len(output)),), after / 2)
                body = encode(said, [output])
            case "dead":
                body, death = message.body, "expired"
            case kind:
                body = encode(Failed(item.session_id, item.stage, item.silo, "1", kind, "it died"))  # type: ignore[arg-type]
        delivery = SimpleNamespace(
            body=body,
            key=key,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            death=death,
            ack=_nothing,
        )
        await self.transport._on_callback(delivery)  # type: ignore[arg-type]


async def _nothing() -> None:
    pass
