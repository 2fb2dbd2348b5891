"""Turn the data of a simulation into files of its silos, and into the tables ``[data.NAME]`` that name them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np

from fedbroker.errors import UsageError
from fedbroker.simulation.columns import Columns, columns_of, is_frame
from fedbroker.wire.messages import check_name

__all__ = ["SiloSources", "sources_of_silos"]

Settings: TypeAlias = Mapping[str, object]
"""The keys of one ``[data.NAME]``."""

_DUCKDB: Final = (".csv", ".tsv", ".txt", ".parquet", ".json", ".jsonl", ".ndjson")
_COMPRESSED: Final = (".gz", ".zst")
_BY_SILO: Final = 'give each silo\'s data by its name, as in {"ewr": frame, "jfk": other_frame}'
_ENDINGS: Final = "end it in .csv, .parquet, .json, .npz or .npy"

# Of a python source: the file does not change while the simulation runs, so that it is read once.
_KEPT_SECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class SiloSources:
    """The data sources of one silo.

    Attributes:
        settings: of sources that read files which exist already.
        columns: of sources whose data is in this process's memory.
        clients: the column that tells the clients of all of them apart, or None.
    """

    settings: Mapping[str, Settings]
    columns: Mapping[str, Columns]
    clients: str | None

    def write(self, directory: Path) -> dict[str, Settings]:
        """Write the columns to files of the silo's directory; return the settings of all sources by name."""
        directory.mkdir(parents=True)
        written: dict[str, Settings] = {}
        for name, columns in self.columns.items():
            file = directory / f"{name}.npz"
            _write_arrays(file, columns)
            written[name] = _arrays_in(file)
        sources = {**self.settings, **written}
        if self.clients is None:
            return sources
        return {name: {"clients": self.clients, **settings} for name, settings in sources.items()}


def sources_of_silos(data: object, name: str, clients: str | None) -> dict[str, SiloSources]:
    """Return each silo's data sources by the silo's name. Nothing is written yet.

    Args:
        data: each silo's data by its name, or a list of the data of ``silo-0``, ``silo-1``, …; see
            :func:`fedbroker.simulate`.
        name: of the source of a silo whose data has no name.
        clients: the column that tells clients apart, or None.

    Raises:
        ConfigError: a name is none, or an object is no table.
    """
    if isinstance(data, list | tuple):
        data = {f"silo-{number}": one for number, one in enumerate(cast("list[object]", data))}
    if not isinstance(data, Mapping):
        raise UsageError(f"the data of a simulation is of the type {type(data).__name__}", hint=_BY_SILO)
    by_silo = cast("Mapping[str, object]", data)
    if not by_silo:
        raise UsageError("a simulation has no silo", hint=_BY_SILO)
    found: dict[str, SiloSources] = {}
    for silo, given in by_silo.items():
        check_name("silo", silo)
        found[silo] = _sources(silo, given if _has_names(silo, given) else {name: given}, clients)
    return found


def _sources(silo: str, tables: object, clients: str | None) -> SiloSources:
    settings: dict[str, Settings] = {}
    columns: dict[str, Columns] = {}
    for name, table in cast("Mapping[str, object]", tables).items():
        where = f"silo {silo!r}, source {name!r}"
        check_name("data source", name)
        if _is_settings(table):
            settings[name] = cast("Settings", table)
        elif not isinstance(table, str | os.PathLike):
            columns[name] = columns_of(table, where)
        elif (path := Path(cast("Any", table)).expanduser().absolute()).suffix == ".npy":
            columns[name] = columns_of(np.load(_existing(path, where), allow_pickle=False), where)
        else:
            settings[name] = _file(path, where)
    return SiloSources(settings, columns, clients)


def _has_names(silo: str, given: object) -> bool:
    """Return whether a silo's data is several tables by name; else it is one table."""
    if not isinstance(given, Mapping) or _is_settings(cast("object", given)):
        return False
    values = cast("Mapping[object, object]", given).values()
    tables = [_is_table(value) for value in values]
    if any(tables) and not all(tables):
        raise UsageError(f"silo {silo!r} has tables and columns in one dict", hint="give a name to each table")
    return any(tables)


def _is_table(value: object) -> bool:
    """Return whether a value is a table; a list or an array is a column."""
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        return all(hasattr(part, "__len__") and not isinstance(part, str | bytes) for part in parts)
    return isinstance(value, Mapping | str | os.PathLike) or is_frame(value)


def _is_settings(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(cast("Mapping[object, object]", value).get("source"), str)


def _file(path: Path, where: str) -> Settings:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    ending = suffixes[-1] if suffixes else ""
    if ending == ".npz":
        return _arrays_in(_existing(path, where))
    if ending not in _DUCKDB:
        raise UsageError(f"{where}: silos read no files like {path.name!r}", hint=_ENDINGS)
    return {"source": "duckdb", "file": str(_existing(path, where))}


def _existing(path: Path, where: str) -> Path:
    """Return the path if it is a file, or a pattern for several."""
    if not path.is_file() and "*" not in path.name:
        raise UsageError(f"{where}: {path} is no file", hint="correct the path; it is relative to where Python runs")
    return path


def _arrays_in(file: Path) -> Settings:
    return {"source": "python", "callable": "numpy:load", "arguments": {"file": str(file)}, "ttl": _KEPT_SECONDS}


def _write_arrays(file: Path, columns: Columns) -> None:
    """Write an ``.npz``. ``numpy.savez`` takes no column with the name ``file``."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                cast("Any", np.lib.format).write_array(member, np.ascontiguousarray(array), allow_pickle=False)
