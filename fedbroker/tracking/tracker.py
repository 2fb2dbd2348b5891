"""The interface of trackers."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import Self

__all__ = ["Tracker"]


class Tracker(abc.ABC):
    """Base class of trackers, which keep metrics of rounds. Use one in a ``with`` statement, or call :meth:`close`."""

    @abc.abstractmethod
    def __call__(self, round: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a round.

        Args:
            round: its number. Where it is not the next one, the program was resumed: what was kept of this round and of
                later ones no longer counts.
            metrics: numbers by name, such as ``train/loss``.
        """

    def close(self, error: BaseException | None = None) -> None:  # noqa: B027 -- not all trackers hold something
        """Write what is not written yet, and release what is open. May be called again.

        Args:
            error: what ended the program; None if it came to its end.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)
