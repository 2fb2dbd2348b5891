"""The protocol of a data source, which other packages implement, and the kinds of sources that are installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable

import numpy.typing as npt

from fedbroker_worker.errors import SettingsError, UnknownSource

if TYPE_CHECKING:
    from pathlib import Path

    from fedbroker.wire.messages import Source

__all__ = ["GROUP", "Columns", "DataSource", "SourceFactory", "installed_kinds", "open_source"]

Columns = Mapping[str, npt.NDArray[Any]]
"""One client's arrays by column name, all with the same first dimension, the number of rows."""


@runtime_checkable
class DataSource(Protocol):
    """A source of data, one table ``[data.NAME]`` of the settings.

    A package offers a kind of source by an entry point of the group ``fedbroker.data_sources``; ``source = "…"`` in the
    settings names it. Every method may block: the silo calls each in its own thread, and calls ``interrupt`` and
    ``close`` also while another method runs. Errors that the silo's administrator can act on are
    :class:`~fedbroker_worker.errors.SourceError` and :class:`~fedbroker_worker.errors.ColumnError`.
    """

    def describe(self) -> Source:
        """Return names, dtypes and row shapes of the columns, without reading all of the data.

        ``rows`` is None if counting takes longer than a moment. dtypes are numpy names, ``str`` for text. ``clients``
        is the number of clients in the rows, 0 or more; it applies to every later ``read``.

        Raises:
            SettingsError: an option does not fit the data.
            SourceError: the source cannot be opened, or has a column of a type that has no counterpart.
        """
        ...

    def count(self) -> int:
        """Return the number of rows of all clients; may take as long as reading them.

        Raises:
            SourceError: the source cannot be read.
        """
        ...

    def read(self, columns: Sequence[str]) -> Sequence[Columns]:
        """Read all rows of these columns in one pass, so that the rows belong together.

        Returns:
            One mapping for each client that ``describe`` announced, in the same order each time; a single one if the
            source has one client. For each name it has an array of shape ``(rows, *row shape)`` and the dtype from
            ``describe``; for text, an object array of ``str`` or ``bytes``. No array is masked. A client without rows
            has arrays of length 0.

        Raises:
            SourceError: the source cannot be read, was interrupted, or has rows of clients that were not announced.
            ColumnError: a column does not exist or has missing values.
        """
        ...

    def interrupt(self) -> None:
        """End a ``read`` that runs in another thread as soon as possible: it raises."""
        ...

    def close(self) -> None:
        """Release all resources; running calls end as soon as possible. May be called twice."""
        ...


class SourceFactory(Protocol):
    """The object that the entry point names, usually the source's class.

    Args:
        name: the source's name in the settings, for errors.
        options: the keys of ``[data.NAME]`` other than ``source``, with their TOML values; a key that an environment
            variable overrides has a string.
        directory: the directory to which relative paths are relative.

    Raises:
        SettingsError: an option is unknown, missing or wrong.
    """

    def __call__(self, name: str, options: Mapping[str, Any], directory: Path) -> DataSource:
        """Create the source, without reading any data."""
        ...


GROUP: Final = "fedbroker.data_sources"
"""The group of entry points by which packages offer kinds of sources."""

# Listed here, because reading the metadata of every installed distribution takes longer than all other steps.
_OWN: Final = {
    kind: EntryPoint(kind, f"fedbroker_worker.sources.{where}", GROUP)
    for kind, where in {
        "duckdb": "duckdb:DuckDBSource",
        "python": "python:PythonSource",
        "sheets": "sheets:SheetsSource",
        "sql": "sql:SqlSource",
    }.items()
}

_EXTRAS: Final = {"sheets": ("gspread", "google", "requests"), "sql": ("sqlalchemy",)}
"""The modules that a kind needs from an optional extra, for the hint of the error if they are missing."""


def installed_kinds() -> tuple[str, ...]:
    """Return the names of all installed kinds of sources."""
    return tuple(sorted({*_OWN, *(point.name for point in entry_points(group=GROUP))}))


def open_source(name: str, kind: str, options: Mapping[str, Any], directory: Path) -> DataSource:
    """Create the source ``[data.NAME]``, without reading any data.

    Args:
        name: the source's name.
        kind: the value of its key ``source``.
        options: its other keys.
        directory: the directory to which relative paths are relative.

    Raises:
        UnknownSource: this kind is not installed.
        SettingsError: an option is wrong, or the package that brings the kind cannot be imported.
    """
    return _factory(name, kind)(name, options, directory)


def _factory(name: str, kind: str) -> SourceFactory:
    point = _OWN.get(kind) or next(iter(entry_points(group=GROUP, name=kind)), None)
    if point is None:
        raise UnknownSource(name, kind, installed_kinds())
    try:
        return cast("SourceFactory", point.load())
    except (ImportError, AttributeError) as error:
        missing = (getattr(error, "name", None) or "").split(".")[0]
        if missing in _EXTRAS.get(kind, ()):
            what = f"[data.{name}]: the source {kind!r} needs {missing}, which is not installed"
            raise SettingsError(what, hint=f"install fedbroker-worker[{kind}]") from None
        raise SettingsError(
            f"[data.{name}]: the source {kind!r} cannot be loaded: {error}", hint="install the package that brings it"
        ) from error
