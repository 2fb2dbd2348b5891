"""Masked sums of an invocation: the digest of its work, and the rings of each stage's outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from fedbroker.context.values.masking import check_shapes, rings_of
from fedbroker.errors import UsageError
from fedbroker.masking.work import NO_WORK, contents_of, work_digest
from fedbroker.plan.model import ClientStage, Plan, ServerStage
from fedbroker.session.masking import StageMasking
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import Digest, Op, blobs_of

__all__ = ["PlanMasking"]


class PlanMasking:
    """The masked sums of one invocation, stage after stage.

    Args:
        plan: its plan.

    Attributes:
        needed: True if any stage has masked sums.
    """

    def __init__(self, plan: Plan) -> None:
        self.needed: Final = any(stage.masked for stage in plan.client_stages)
        self._earlier = self._work = NO_WORK

    async def stage(
        self,
        stage: ClientStage,
        following: object,
        ops: Mapping[str, Sequence[Op]],
        blobs: Mapping[Digest, Buffer],
        clients: int,
        values: Mapping[str, Buffer],
    ) -> StageMasking | None:
        """Add a stage to the digest of the work, and return its masked sums; None if it has none.

        Args:
            stage: the stage.
            following: the stage after it, which takes the sums.
            ops: operations for each silo.
            blobs: content of every digest that the operations name.
            clients: number of clients of all silos together.
            values: the server's values that the silos are sent, by slot name.

        Raises:
            UsageError: silos are asked for different work, or a modulus that the program computes is out of range.
        """
        if not self.needed:
            return None
        self._earlier, self._work = self._work, await asyncio.to_thread(_work_of_all, self._work, ops, blobs)
        if not stage.masked:
            return None
        assert isinstance(following, ServerStage), "a stage that takes the sums follows"
        rings = [rings_of(one, clients, values) for one in following.sums]
        clear = len(stage.partials) + len(stage.returned)
        return StageMasking((*rings, *[None] * clear), self._work, partial(check_shapes, following.sums))

    def is_work_of_stage(self, ops: Sequence[Op], blobs: Mapping[Digest, Buffer]) -> bool:
        """Return whether operations are the latest stage's work: the masks of a silo that does other work are left."""
        return not self.needed or work_digest(self._earlier, ops, contents_of(_named(ops, blobs))) == self._work


def _work_of_all(earlier: bytes, ops: Mapping[str, Sequence[Op]], blobs: Mapping[Digest, Buffer]) -> bytes:
    """Return the digest of the work after a stage, which all silos must have in common.

    Raises:
        UsageError: two silos are asked for different work; names both.
    """
    contents = contents_of(blobs)
    first, *others = ops
    work = work_digest(earlier, ops[first], contents)
    for silo in others:
        if work_digest(earlier, ops[silo], contents) != work:
            raise UsageError(
                f"silo {silo!r} is asked for other work than silo {first!r}, so that no masked sum can be formed",
                hint="give the columns that are read the same names and dtypes in the data of all silos",
            )
    return work


def _named(ops: Sequence[Op], blobs: Mapping[Digest, Buffer]) -> dict[Digest, Buffer]:
    return {digest: blobs[digest] for digest in blobs_of(ops)}
