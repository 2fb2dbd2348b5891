"""Silos in one process that have a large update ready for each work item, and no C++ runtime. A child process.

Each uses fedbroker's own silo transport: its announcements, held results and messages are those of a real silo.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tensorflow_federated as tff

from benchmarks._children import say, serve
from fedbroker.context.values.codec import federate, serialize, structure
from fedbroker.deadline import Deadline
from fedbroker.transport import Signed, SiloTransport
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Announce, Done, WorkItem

HEARTBEAT = 5.0
START = 60.0


class Updating:
    """One silo, whose update is a vector of one repeated number.

    Args:
        url: of the broker.
        cohort: its name.
        name: of the silo.
        number: the number that the update repeats.
        numbers: how many float32 the update has.
    """

    def __init__(self, url: str, cohort: str, name: str, number: float, numbers: int) -> None:
        self._cohort = cohort
        self._name = name
        self._number = number
        self._type = tff.TensorType(np.float32, [numbers])
        self.end = SiloTransport(
            url,
            cohort,
            name,
            announcement=lambda: Announce(cohort, name, "1", HEARTBEAT),
            on_work=self._answer,
            on_session_end=lambda *_: None,
            heartbeat=HEARTBEAT,
        )

    async def _answer(self, item: WorkItem, _: Signed) -> None:
        """Reply with the stage's only partial, as a silo's runtime would compute it."""
        update = serialize(np.full(self._type.shape, self._number, np.float32), self._type)
        output = b"".join(structure([federate([update], tff.FederatedType(self._type, tff.SERVER))]))
        digest = digest_of(output)
        done = Done(item.session_id, item.stage, self._name, "1", ((digest, len(output)),), 0.0)
        await self.end.reply(item, done, {digest: output}, Deadline.after(item.timeout))


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Join the cohort; report when all are ready; reply until standard input ends."""
    names = [f"silo-{number:02}" for number in range(first["silos"])]
    silos = [
        Updating(first["url"], first["cohort"], name, float(at), first["numbers"]) for at, name in enumerate(names)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for silo in silos:
            stack.push_async_callback(silo.end.close)
        await asyncio.gather(*(silo.end.open(Deadline.after(START)) for silo in silos))
        say(ready=True)
        async for _ in words:
            pass


if __name__ == "__main__":
    serve(main)
