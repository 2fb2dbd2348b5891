"""The outputs that a session hands on, recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class RecordedOutputs(dict[str, Sequence[object]]):
    """Records a session's outputs in their order, and reports each as merged at once."""

    def __call__(self, silo: str, outputs: Sequence[object], merged: Callable[[], None]) -> None:
        """See :data:`fedbroker.session.ports.Take`."""
        self[silo] = outputs
        merged()
