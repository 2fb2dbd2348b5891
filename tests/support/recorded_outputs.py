"""The outputs that a session passes on to be merged, recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fedbroker.session.merge_scheduler import MergeScheduler


class RecordedOutputs(MergeScheduler):
    """Records the replies in their merge order, and reports each as merged at once."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, Sequence[object]] = {}

    def advance(self, settled: Iterable[str]) -> None:
        """See :meth:`MergeScheduler.advance`."""
        super().advance(settled)
        while batch := self.take_batch(1, 0):
            self.outputs |= {reply.silo: reply.partials for reply in batch}
            self.release(batch)

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __getitem__(self, silo: str) -> Sequence[object]:
        return self.outputs[silo]
