"""Reads the sequences in a silo's reply before the reply counts, so that an unreadable one is the silo's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from fedbroker.context.ops import parts_of
from fedbroker.context.sequences import has_sequences, read_sequences
from fedbroker.errors import RuntimeUnavailable
from fedbroker.plan.model import ClientStage, Slot
from fedbroker.runtime import Executor
from fedbroker.wire.codec import Buffer

__all__ = ["SequenceReader", "returns_sequences"]

AT_A_TIME: Final = 16
"""Number of silos whose sequences are read at once: each takes a thread of the runtime, and may never end."""


class SequenceReader:
    """The sequences that silos return, read as tensors, which are held until they are taken.

    Args:
        executor: returns an executor of the coordinator's runtime with that many clients.
    """

    def __init__(self, executor: Callable[[int], Awaitable[Executor]]) -> None:
        self._executor = executor
        self._room = asyncio.Semaphore(AT_A_TIME)
        self._reading: dict[str, None] = {}
        self._tensors: dict[tuple[str, str], Buffer] = {}  # by slot and silo

    async def read(self, stage: ClientStage, silo: str, outputs: Sequence[Buffer]) -> None:
        """Read the sequences in a silo's checked reply.

        Raises:
            WireError: a sequence is too long.
            ComputationFailed: a sequence cannot be read; with the runtime's error.
            RuntimeUnavailable: the runtime died; names the silos whose sequences were being read.
        """
        returned = parts_of(stage, outputs)[len(stage.partials) :]
        async with self._room:
            self._reading[silo] = None
            try:
                executor = await self._executor(0)
                try:
                    for slot, value in zip(stage.returned, returned, strict=True):
                        if has_sequences(slot.type):
                            self._tensors[slot.name, silo] = await read_sequences(value, slot.type, executor)
                finally:
                    # Gives up a sequence that is still being read: its runtime then gets no new sessions.
                    await asyncio.shield(executor.close())
            except RuntimeUnavailable as error:
                silos = ", ".join(map(repr, self._reading))
                what = f"while sequences of silo {silos} were read in client stage {stage.number}: {error.what}"
                raise RuntimeUnavailable(what, retryable=error.retryable, hint=error.hint) from None
            finally:
                self._reading.pop(silo, None)

    def take(self, slot: Slot, silo: str, value: Buffer) -> Buffer:
        """Return a silo's value of a slot, with tensors in place of sequences; each is handed out once."""
        return self._tensors.pop((slot.name, silo), value)


def returns_sequences(stage: ClientStage) -> bool:
    """Return whether the values that silos return in a stage contain sequences."""
    return any(has_sequences(slot.type) for slot in stage.returned)
