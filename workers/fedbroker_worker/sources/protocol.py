"""What a data source is: the one seam that others implement to bring their own kind of data to a silo.

Imports wire's messages only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

    from fedbroker.wire.messages import Source

__all__ = ["Columns", "DataSource", "SourceFactory"]

Columns = Mapping[str, npt.NDArray[Any]]
"""One client's arrays by column name, all with the same first dimension, the number of rows."""


@runtime_checkable
class DataSource(Protocol):
    """One ``[data.NAME]`` of the settings.

    A package offers a kind of source by an entry point of the group ``fedbroker.data_sources``; ``source = "…"`` in the
    settings names it. Every method may block: the silo calls them in threads of their own, ``interrupt`` and ``close``
    also while another runs. Errors that the silo's administrator can act on are
    :class:`~fedbroker_worker.errors.SourceError` and :class:`~fedbroker_worker.errors.ColumnError`.
    """

    def describe(self) -> Source:
        """Names, dtypes and row shapes of the columns, without reading all of the data.

        ``rows`` is None where counting takes longer than a moment. dtypes are numpy names, ``str`` for text.
        ``clients`` is how many clients the rows are of, 0 or more; it holds for every ``read`` from then on.

        Raises:
            SettingsError: an option does not go with what the data are.
            SourceError: it cannot be opened, or has a column of a type that has no counterpart.
        """
        ...

    def count(self) -> int:
        """How many rows there are, of all clients; may take as long as reading them.

        Raises:
            SourceError: it cannot be read.
        """
        ...

    def read(self, columns: Sequence[str]) -> Sequence[Columns]:
        """All rows of these columns, from one pass, so that the rows belong together.

        Returns:
            One for each client that ``describe`` announced, in the same order each time; one alone where the source
            stands for one client. For each name an array of shape ``(rows, *row shape)`` and the dtype that
            ``describe`` gave, or, for text, an object array of ``str`` or ``bytes``. No array is masked. A client
            without rows has arrays of none.

        Raises:
            SourceError: it cannot be read, was interrupted, or has rows of clients that were not announced.
            ColumnError: there is no such column, or it has missing values.
        """
        ...

    def interrupt(self) -> None:
        """End a ``read`` that is under way in another thread as soon as possible: it raises."""
        ...

    def close(self) -> None:
        """Release everything; calls under way end as soon as possible. May be called twice."""
        ...


class SourceFactory(Protocol):
    """What the entry point names: usually the class itself.

    Args:
        name: of the source in the settings, for errors.
        options: the keys of ``[data.NAME]`` other than ``source``, as TOML gave them; one that an environment variable
            overrides is a string.
        directory: what relative paths are relative to.

    Raises:
        SettingsError: an option is unknown, missing or wrong.
    """

    def __call__(self, name: str, options: Mapping[str, Any], directory: Path) -> DataSource:
        """Make the source; nothing of its data is read yet."""
        ...
