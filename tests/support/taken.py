"""What a session hands on, remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Taken(dict[str, Sequence[object]]):
    """Takes outputs for a test, in the order in which they are given; is done with each at once."""

    def __call__(self, silo: str, outputs: Sequence[object], merged: Callable[[], None]) -> None:
        """See :data:`fedbroker.session.ports.Take`."""
        self[silo] = outputs
        merged()
