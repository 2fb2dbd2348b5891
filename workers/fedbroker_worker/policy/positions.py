"""The position of the op that failed: found in the runtime's message, reported without quoting it."""

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
        ref: the work item's reference to the value that holds the computation.
        part: the number of the computation in that value, from 0.
        position: the op's position in the computation.
    """

    def __init__(self, failed: ComputationFailed, ref: int, part: int, position: Position) -> None:
        super().__init__(failed.status, failed.detail, hint=failed.hint)
        self.ref = ref
        self.part = part
        self.position = position


def located(failed: ComputationFailed, item: WorkItem, blobs: Mapping[Digest, Buffer]) -> ComputationFailed:
    """Return the failure with the position of the op that failed, if it is in one of the item's own computations.

    Args:
        failed: carries the runtime's message.
        item: the work item that was run.
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
        except Unreadable:  # the guard reads computations only as far as its rules need, so that one may get here
            continue
    return failed
