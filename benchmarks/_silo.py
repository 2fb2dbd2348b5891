"""A real silo that records when it does what: a child process.

The only place where benchmarks know a silo's internals: it takes a work item from the queue, calls the runtime, and
passes the reply to the broker.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

from fedbroker_worker.config import load
from fedbroker_worker.service import SiloService

from benchmarks._children import say, serve
from fedbroker.runtime.executor import Executor
from fedbroker.runtime.service import Service
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.transport.silo.work_consumer import WorkConsumer


class Notes:
    """The times at which the current work item arrived, first went to the runtime, and came out of it.

    Attributes:
        seconds: for each item with a reply: from arrival to the runtime, and from the runtime to the broker.
    """

    def __init__(self) -> None:
        self.taken = self.called = self.computed = 0.0
        self.seconds: list[tuple[float, float]] = []

    def take(self) -> None:
        """Record that a work item arrived."""
        self.taken, self.called = time.perf_counter(), 0.0

    def call(self) -> None:
        """Record the first call of the runtime."""
        self.called = self.called or time.perf_counter()

    def compute(self) -> None:
        """Record that the runtime has answered."""
        self.computed = time.perf_counter()

    def reply(self) -> None:
        """Record that the broker was given the reply."""
        self.seconds.append((self.called - self.taken, time.perf_counter() - self.computed))


def noted(owner: type, name: str, before: Callable[[], None] | None, after: Callable[[], None] | None) -> None:
    """Wrap a method of a class with calls before and after it."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @wraps(method)
    async def noting(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if before is not None:
            before()
        result = await method(*args, **kwargs)
        if after is not None:
            after()
        return result

    setattr(owner, name, noting)


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Serve; report the times recorded since the last order at each order."""
    notes = Notes()
    noted(WorkConsumer, "take", notes.take, None)
    noted(Service, "call", notes.call, None)
    noted(Executor, "compute", None, notes.compute)
    noted(ReconnectingConnection, "publish_reply", notes.reply, None)
    async with SiloService(load(Path(first["settings"]), {})):
        say(ready=True)
        async for _ in words:
            say(seconds=notes.seconds)
            notes.seconds.clear()


if __name__ == "__main__":
    serve(main)
