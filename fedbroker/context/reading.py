"""The sequences in silos' answers, each read while its silo's answer is looked at: what cannot be read is its failure.

Imports sequences, programs, the plan's model, the runtime and the base.
"""

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
"""Silos whose sequences are read side by side: each takes a thread of the runtime, and one may never end."""


class SequenceReader:
    """Reads what silos return, and holds the tensors until they are taken.

    Args:
        executor: gives an executor of the coordinator's runtime with that many clients.
    """

    def __init__(self, executor: Callable[[int], Awaitable[Executor]]) -> None:
        self._executor = executor
        self._room = asyncio.Semaphore(AT_A_TIME)
        self._reading: dict[str, None] = {}
        self._tensors: dict[tuple[str, str], Buffer] = {}  # by slot and silo

    async def read(self, stage: ClientStage, silo: str, outputs: Sequence[Buffer]) -> None:
        """Read the sequences in a silo's answer, which was checked.

        Raises:
            WireError: a sequence is too long.
            ComputationFailed: a sequence cannot be read; with the runtime's own words.
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
                    # Whatever is still read in it is given up: its runtime gets no new sessions then.
                    await asyncio.shield(executor.close())
            except RuntimeUnavailable as error:
                silos = ", ".join(map(repr, self._reading))
                what = f"while sequences of silo {silos} were read in client stage {stage.level}: {error.what}"
                raise RuntimeUnavailable(what, retryable=error.retryable, hint=error.hint) from None
            finally:
                self._reading.pop(silo, None)

    def take(self, slot: Slot, silo: str, value: Buffer) -> Buffer:
        """What a silo returned in a slot: with tensors in the place of sequences, if there are any."""
        return self._tensors.pop((slot.name, silo), value)


def returns_sequences(stage: ClientStage) -> bool:
    """Whether there are sequences in what a stage's silos return."""
    return any(has_sequences(slot.type) for slot in stage.returned)
