"""The kinds of data sources: those of the worker itself, and installed entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, cast

from fedbroker_worker.errors import SettingsError, UnknownSource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedbroker_worker.sources.protocol import DataSource, SourceFactory

__all__ = ["GROUP", "installed_kinds", "open_source"]

GROUP: Final = "fedbroker.data_sources"

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
