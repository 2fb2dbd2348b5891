"""Which op of a work item failed: found in the runtime's words, told without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedbroker.errors import ComputationFailed
from fedbroker.graphs import Position, Unreadable, position_in
from fedbroker.wire.messages import Value
from fedbroker_worker.policy.values import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, WorkItem

__all__ = ["OpFailed", "located"]


class OpFailed(ComputationFailed):
    """A computation failed at an op of the work item.

    Attributes:
        ref: what the work item calls the value that holds the computation.
        part: which of the computations in that value, from 0.
        position: the op's, in the computation.
    """

    def __init__(self, failed: ComputationFailed, ref: int, part: int, position: Position) -> None:
        super().__init__(failed.status, failed.detail, hint=failed.hint)
        self.ref = ref
        self.part = part
        self.position = position


def located(failed: ComputationFailed, item: WorkItem, blobs: Mapping[Digest, Buffer]) -> ComputationFailed:
    """Return the failure with the position of the op that failed, if it is in one of the item's own computations.

    Args:
        failed: carries the runtime's words.
        item: what was run.
        blobs: the content of each digest that the item names.
    """
    for op in item.program:
        if not isinstance(op, Value):
            continue
        try:
            computations = [content for kind, content in parts(blobs[op.blob]) if kind == "computation"]
            for part, computation in enumerate(computations):
                if (position := position_in(computation, failed.detail)) is not None:
                    return OpFailed(failed, op.ref, part, position)
        except Unreadable:  # an op that the silo allows may have let it in
            continue
    return failed
