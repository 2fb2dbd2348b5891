"""Columns that a Python function of the administrator returns: for any data that Python can read."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import numpy as np
from msgspec import Meta

from fedbroker.wire.messages import Column, Source
from fedbroker_worker.errors import ColumnError, Problem, SettingsError, SourceError
from fedbroker_worker.options import read_table
from fedbroker_worker.sources.arrays import array_from, infer
from fedbroker_worker.sources.clients import clients_among, keys_as_text
from fedbroker_worker.sources.column_types import DTYPES, check_names, of_each
from fedbroker_worker.sources.profile import SourceProfile, profile_by_reading
from fedbroker_worker.threads import CancellableCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from fedbroker_worker.sources.arrays import Array
    from fedbroker_worker.sources.clients import Clients
    from fedbroker_worker.sources.protocol import Columns


__all__ = ["PythonOptions", "PythonSource"]

_FORM: Final = '"module:function"'


_RETURN: Final = "return numbers, truth values or text, of one length in each row"


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonOptions:
    """The keys of a ``[data.NAME]`` with ``source = "python"``.

    Attributes:
        callable: ``module:function``; the module is installed, or is in the folder of the settings.
        arguments: the function's keyword arguments; not in the ``repr``, because they may hold secrets.
        clients: a column; rows with the same value in it belong to one client.
        ttl: seconds for which the function's result is used again; with 0 it is called for every read.
    """

    callable: Annotated[str, Meta(description=_FORM)]
    arguments: Annotated[dict[str, Any], Meta(description="a table of arguments")] = field(
        default_factory=dict[str, Any], repr=False
    )
    clients: Annotated[str | None, Meta(description="a column")] = None
    ttl: Annotated[float, Meta(ge=0, description="a number of seconds")] = 0.0


class PythonSource:
    """The columns that a function returns; see :class:`~fedbroker_worker.sources.protocol.DataSource`.

    The function returns a mapping from names to columns of one length: arrays, lists, or other values that numpy
    converts to arrays (a data frame is such a mapping). A column holds numbers, truth values or text; more than one
    dimension makes vectors. ``datetime64`` becomes ``int32``, days since 1970, if its unit is the day, else ``int64``,
    microseconds since 1970.

    An interrupted read raises at once; the function continues in its thread until it returns.

    Args:
        name: the source's name in the settings.
        options: see :class:`PythonOptions`.
        directory: the folder of the settings, in which the module may be.

    Raises:
        SettingsError: an option is wrong, or the function does not exist.
    """

    def __init__(self, name: str, options: Mapping[str, Any], directory: Path) -> None:
        text = [key for key, value in options.items() if isinstance(value, str)]
        self._options = read_table(PythonOptions, options, label=lambda key: f"{key!r} in [data.{name}]", lenient=text)
        self._name = name
        self._function = self._import_function(directory.absolute())
        self._calls = CancellableCalls(name)
        self._lock = threading.Lock()
        self._cached: tuple[float, dict[str, Array]] | None = None
        self._announced: dict[str, Column] | None = None
        self._clients: Clients | None = None

    def describe(self) -> Source:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        arrays = self._calls.run(lambda _: self._arrays())
        announced, clients = self._inspect(arrays)
        with self._lock:
            # Without rows, the types are only placeholders: the next read infers them.
            self._announced, self._clients = announced if _length(arrays) else None, clients
        number = 1 if clients is None else len(clients.keys)
        return Source(tuple(announced.values()), rows=_length(arrays), clients=number)

    def count(self) -> int:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        return _length(self._calls.run(lambda _: self._arrays()))

    def read(self, columns: Sequence[str]) -> Sequence[Columns]:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        arrays = self._calls.run(lambda _: self._arrays(), reading=True)
        with self._lock:
            if self._announced is None:
                self._announced, self._clients = self._inspect(arrays)
            announced, clients = self._announced, self._clients
        for name in columns:
            if name not in announced:
                raise ColumnError(
                    self._name,
                    name,
                    "does not exist",
                    hint=f"available: {', '.join(announced)}",
                    problem=Problem.UNKNOWN_COLUMN,
                )
        chosen = of_each(columns, lambda name: self._as_announced(announced[name], arrays))
        if clients is None:
            return [chosen]
        return clients.deal(self._name, chosen, keys_as_text(self._keys(clients.column, arrays)))

    def profile(self, head: int) -> SourceProfile:
        """See :class:`~fedbroker_worker.sources.profile.ProfiledSource`."""
        return profile_by_reading(self._name, self, self.describe(), head, query=self._options.callable)

    def interrupt(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        self._calls.interrupt()

    def close(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        self._calls.close()

    def _arrays(self) -> dict[str, Array]:
        """Return the function's columns, from the cache if they are not older than ``ttl``."""
        now = time.monotonic()
        with self._lock:
            cached = self._cached
        if cached is not None and now < cached[0] + self._options.ttl:
            return cached[1]
        arrays = self._checked(self._call())
        if self._options.ttl:
            with self._lock:
                self._cached = now, arrays
        return arrays

    def _call(self) -> Mapping[str, object]:
        try:
            returned = self._function(**self._options.arguments)
        except BaseException as error:  # sys.exit(), too: it ends the read, not the silo
            what = " ".join(f"{self._options.callable} failed: {type(error).__name__}: {error}".split())
            raise SourceError(self._name, what, hint="correct it", problem=Problem.UNREADABLE) from error
        if not hasattr(returned, "keys") or not hasattr(returned, "__getitem__"):
            what = f"{self._options.callable} returned {type(returned).__name__}, not columns by name"
            raise SourceError(
                self._name, what, hint='return a dictionary, such as {"x": [1.0, 2.0]}', problem=Problem.NO_COLUMNS
            )
        return {str(name): values for name, values in dict(returned).items()}

    def _checked(self, returned: Mapping[str, object]) -> dict[str, Array]:
        arrays = of_each(returned, lambda name: as_array(self._name, name, returned[name]))
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise SourceError(
                self._name,
                f"its columns are of different lengths: {counts}",
                hint="return one row for each",
                problem=Problem.UNEQUAL_LENGTHS,
            )
        if not arrays:
            raise SourceError(
                self._name,
                f"{self._options.callable} returned no column",
                hint="return at least one",
                problem=Problem.NO_COLUMNS,
            )
        return arrays

    def _inspect(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Column], Clients | None]:
        """Return the columns by name, and the clients."""
        client_column = self._options.clients
        columns = {name: _column(name, array) for name, array in arrays.items() if name != client_column}
        if client_column is None:
            return columns, None
        check_names(self._name, "clients", [client_column], arrays)
        if not columns:
            what = f"'clients' in [data.{self._name}] takes {client_column!r}, the only column"
            raise SettingsError(what, hint="return what the clients compute with, too")
        return columns, clients_among(client_column, self._keys(client_column, arrays))

    def _keys(self, column: str, arrays: Mapping[str, Array]) -> list[object]:
        if column not in arrays:
            raise ColumnError(self._name, column, "no longer exists, and was the clients'", problem=Problem.NOT_KEYS)
        if arrays[column].ndim > 1:
            raise ColumnError(
                self._name,
                column,
                "is of vectors, which are no client's keys",
                hint="correct 'clients'",
                problem=Problem.NOT_KEYS,
            )
        return cast("list[object]", arrays[column].tolist())

    def _as_announced(self, column: Column, arrays: Mapping[str, Array]) -> Array:
        found = _column(column.name, arrays[column.name]) if column.name in arrays else None
        if found != column:
            now = "no longer exists" if found is None else f"is {_type_text(found)} now"
            what = f"{now}, and was announced as {_type_text(column)}"
            raise ColumnError(
                self._name,
                column.name,
                what,
                hint="return the same each time, or start the silo again",
                problem=Problem.CHANGED,
            )
        return arrays[column.name]

    def _import_function(self, directory: Path) -> Callable[..., Any]:
        where = f"'callable' in [data.{self._name}]"
        module, separator, attribute = self._options.callable.partition(":")
        if not (separator and module and attribute):
            raise SettingsError(f"{where}: {self._options.callable!r} names no function", hint=f"write {_FORM}")
        if str(directory) not in sys.path:
            # Last, so that a file in that folder never hides an installed module.
            sys.path.append(str(directory))
        try:
            found = importlib.import_module(module)
        except BaseException as error:  # a module may call sys.exit()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            hint = f"it is imported from the installed packages or from {directory}"
            raise SettingsError(f"{where}: {module!r} cannot be imported: {reason}", hint=hint) from error
        function = getattr(found, attribute, None)
        if not callable(function):
            raise SettingsError(f"{where}: {module!r} has no function {attribute!r}", hint=f"write {_FORM}")
        return cast("Callable[..., Any]", function)


def _column(name: str, array: Array) -> Column:
    return Column(name, "str" if array.dtype == np.dtype(object) else array.dtype.name, array.shape[1:])


def _length(arrays: Mapping[str, Array]) -> int:
    return len(next(iter(arrays.values())))


def _type_text(column: Column) -> str:
    return column.dtype + "".join(f"[{size}]" for size in column.shape)


def as_array(source: str, column: str, values: object) -> Array:
    """Return a column as a plain array.

    Args:
        source: the source's name, for errors.
        column: the column's name.
        values: an array, a list, or any other value that numpy converts to an array.

    Returns:
        Shape ``(rows, …)`` of a dtype of :data:`~fedbroker_worker.sources.column_types.DTYPES`; text is an object array
        of ``str`` or ``bytes``.

    Raises:
        ColumnError: the values are no column, or a value is missing.
    """
    array = _converted(source, column, values)
    if array.ndim == 0:
        raise ColumnError(
            source,
            column,
            "is one value, not one for each row",
            hint="return a list or an array",
            problem=Problem.NOT_ROWS,
        )
    if isinstance(array, np.ma.MaskedArray):
        masked = int(np.count_nonzero(cast("Any", array).mask))
        if masked:
            raise ColumnError(
                source,
                column,
                f"has {masked} masked values",
                hint="fill them, or leave those rows out",
                problem=Problem.NO_VALUE,
            )
        array = array.data
    match array.dtype.kind:
        case "O":
            return _of_objects(source, column, array)
        case "U" | "S":
            return array.astype(object)
        case "M":
            return _of_datetimes(source, column, array)
        case _ if array.dtype.name in DTYPES:
            return array
        case _:
            pass
    raise ColumnError(
        source,
        column,
        f"is of the dtype {array.dtype}, which is not supported",
        hint=_RETURN,
        problem=Problem.NO_COUNTERPART,
    )


def _converted(source: str, column: str, values: object) -> np.ndarray[Any, Any]:
    try:
        array = np.asanyarray(values)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ColumnError(
            source, column, f"is no array: {reason}", hint=_RETURN, problem=Problem.NO_COUNTERPART
        ) from None
    # numpy would convert a number among text to text.
    mixed = array.dtype.kind in "US" and isinstance(values, list | tuple) and array.ndim == 1
    return np.array(values, dtype=object) if mixed else array


def _of_objects(source: str, column: str, array: Array) -> Array:
    """Convert an array of Python objects, whose type is inferred from each of them."""
    typed = infer(source, column, array.tolist())
    if typed is None:
        if array.size:
            raise ColumnError(
                source,
                column,
                f"has {array.size} missing values and no other",
                hint="leave it out",
                problem=Problem.NO_TYPE,
            )
        return array
    return array_from(source, typed, array.tolist(), lambda at: f"in row {at + 1}")


def _of_datetimes(source: str, column: str, array: Array) -> Array:
    missing = int(np.count_nonzero(np.isnat(array)))
    if missing:
        raise ColumnError(
            source,
            column,
            f"has {missing} missing points in time",
            hint="leave those rows out",
            problem=Problem.NO_VALUE,
        )
    if np.datetime_data(array.dtype)[0] == "D":
        return array.astype(np.int64).astype(np.int32)
    return array.astype("datetime64[us]").astype(np.int64)
