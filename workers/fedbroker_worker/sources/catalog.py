"""The silo's open data sources: their announcements, and their columns as values for the runtime."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from fedbroker.errors import ConfigError, FedbrokerError
from fedbroker.log import get_logger
from fedbroker.text import printable
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Source
from fedbroker_worker.errors import ColumnError, Problem, SourceError, WorkRefused
from fedbroker_worker.policy.rules import too_few_rows
from fedbroker_worker.sources.column_types import check_dtype, requested_type
from fedbroker_worker.sources.columns import ColumnType, clients_value, member_value
from fedbroker_worker.sources.profile import ProfiledSource, profile_by_reading
from fedbroker_worker.sources.protocol import open_source
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Data
    from fedbroker_worker.config import SourceSettings
    from fedbroker_worker.sources.profile import SourceProfile
    from fedbroker_worker.sources.protocol import DataSource

__all__ = ["Catalog", "OpenSource"]

T = TypeVar("T")

_log = get_logger(__name__)

CANCEL_EVERY: Final = 0.05
CANCEL_SECONDS: Final = 3.0
"""How often and for how long a source is asked to cancel abandoned calls, in seconds.

The silo's exit waits for it, so that it is short. A call that runs on is abandoned with its thread.
"""

COUNT_SECONDS: Final = 1.0
"""How long opening waits for the numbers of rows, in seconds.

A source without rows fits any type, so its first announcement should say that it has none. The C++ runtime
starts at the same time, and takes as long.
"""

UNKNOWN: Final = Source(columns=())
"""The description of a source until it has been read."""


@dataclass(slots=True)
class OpenSource:
    """An open source.

    Attributes:
        name: its name in the settings.
        source: the object that reads it.
        announced: its description for coordinators.
    """

    name: str
    source: DataSource
    announced: Source = UNKNOWN
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _calls: set[asyncio.Future[Any]] = field(default_factory=set[asyncio.Future[Any]])

    @classmethod
    async def open(cls, name: str, settings: SourceSettings, directory: Path) -> OpenSource:
        """Open a source and read the description of its columns.

        Raises:
            ConfigError: its settings are wrong.
            SourceError: it cannot be opened.
        """
        make = partial(open_source, name, settings.kind, settings.options, directory)
        opened = cls(name, await _guarded(name, "make", make))
        try:
            opened.announced = await asyncio.shield(opened._start("describe", opened.source.describe))
        except BaseException:
            await opened.close()
            raise
        return opened

    async def count(self) -> int:
        """Return the number of rows, and announce it from now on.

        Raises:
            SourceError: the source cannot be read.
        """
        rows = self.announced.rows
        if rows is None:
            rows = await asyncio.shield(self._start("count", self.source.count))
            self.announced = msgspec.structs.replace(self.announced, rows=rows)
        return rows

    async def profile(self, head: int, seconds: float) -> SourceProfile:
        """Read all rows and summarise them, for the silo's own terminal.

        Args:
            head: the number of first rows to return.
            seconds: time limit.

        Raises:
            SourceError: the source cannot be read.
            TimeoutError: the time was up; the read was interrupted.
        """
        source = self.source
        if isinstance(source, ProfiledSource):
            read = partial(source.profile, head)
        else:
            read = partial(profile_by_reading, self.name, source, self.announced, head)
        reading = self._start("profile", read)
        done, _ = await asyncio.wait([reading], timeout=seconds)
        if not done:
            await self._finish({reading}, source.interrupt)
            raise TimeoutError
        return reading.result()

    async def load(self, op: Data, clients: int, limits: Limits, min_rows: int = 0) -> bytes:
        """Return the columns that a work item requests, as a serialized value with one member for each client.

        Raises:
            PolicyRefused: the source has fewer than ``min_rows`` rows.
            SourceError: the source cannot be read, or the value is too large.
            ColumnError: columns are missing or do not convert; names all of them.
            WorkRefused: the source has another number of clients.
        """
        types = self._types(op)
        if clients == 0:
            return clients_value(types, [], scalar=op.scalar)
        if clients != self.announced.clients:
            announced = f"{self.announced.clients} client{'s' * (self.announced.clients != 1)}"
            raise WorkRefused(f"source {self.name!r} has {announced}, not {clients}")
        async with self._reading:  # one at a time, so that cancelling one read interrupts no other
            reading = self._start("read", partial(self._serialized, types, op.scalar, min_rows))
            try:
                value = await asyncio.shield(reading)
            except asyncio.CancelledError:
                await self._finish({reading}, self.source.interrupt)
                raise
        if value is None:
            raise too_few_rows(self.name)
        if len(value) > limits.max_blob:
            what = f"takes {len(value)} bytes, more than the limit of {limits.max_blob}"
            raise SourceError(
                self.name,
                what,
                hint="select fewer columns or rows in its query",
                problem=Problem.TOO_LARGE,
                limit=limits.max_blob,
            )
        return value

    async def close(self) -> None:
        """Release the source, and wait for running calls: native code must not run while the interpreter ends."""
        try:
            self.source.close()
        except Exception as error:
            _log.warning("source_close_failed", source=self.name, reason=_one_line(error))
        else:
            await self._finish(self._calls, self.source.close)

    def _types(self, op: Data) -> list[ColumnType]:
        """Return the requested columns, which are named or numbered (``#0``)."""
        types: list[ColumnType] = []
        missing: dict[str, ColumnError] = {}
        for name, dtype in op.columns:
            # Coordinators know a column by the printable form of its name.
            found = [column for column in self.announced.columns if printable(column.name) == name]
            if not found and name.startswith("#") and name[1:].isdecimal():
                found = list(self.announced.columns[int(name[1:]) :][:1])
            if not found:
                available = ", ".join(column.name for column in self.announced.columns)
                hint = f"available: {available}"
                missing[name] = ColumnError(
                    self.name, name, "does not exist", hint=hint, problem=Problem.UNKNOWN_COLUMN
                )
                continue
            dtype, shape = requested_type(dtype, found[0].shape)
            check_dtype(dtype, name)
            types.append(ColumnType(found[0].name, dtype, shape))
        if missing:
            raise ColumnError.joined(list(missing.values()))
        return types

    def _serialized(self, types: list[ColumnType], scalar: bool, min_rows: int) -> bytes | None:
        """Return the serialized value; None, before anything is converted, if it would have fewer rows."""
        read = self.source.read([type_.name for type_ in types])
        if min_rows and sum(len(columns[types[0].name]) for columns in read) < min_rows:
            return None
        if len(read) != self.announced.clients:
            what = f"its rows came as those of {len(read)} clients where it announced {self.announced.clients}"
            hint = "see the package that brings this kind of source"
            raise SourceError(self.name, what, hint=hint, problem=Problem.OTHER_CLIENTS)
        members: list[list[Buffer]] = []
        errors: dict[tuple[str, Problem, str], ColumnError] = {}  # a column's problem once, not for each client
        for number, columns in enumerate(read, 1):
            client = f"client {number} of {len(read)}" if len(read) > 1 else ""
            try:
                members.append(member_value(self.name, types, columns, scalar=scalar, client=client))
            except ColumnError as error:
                for part in error.parts:
                    errors.setdefault((part.column, part.problem, part.dtype), part)
        if errors:
            raise ColumnError.joined(list(errors.values()))
        return clients_value(types, members, scalar=scalar)

    def _start(self, what: str, function: Callable[[], T]) -> asyncio.Future[T]:
        """Call the source in a thread; callers shield the future, so that it stays in ``_calls`` until it ends."""
        call = asyncio.ensure_future(_guarded(self.name, what, function))
        self._calls.add(call)
        call.add_done_callback(self._forget)
        return call

    def _forget(self, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # retrieved, so that asyncio does not log it as never retrieved

    async def _finish(self, calls: Collection[asyncio.Future[Any]], cancel: Callable[[], None]) -> None:
        """Cancel abandoned calls; ask repeatedly, because the first request may come before a call has begun."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CANCEL_SECONDS
        while (pending := [call for call in calls if not call.done()]) and loop.time() < until:
            cancel()
            await asyncio.wait(pending, timeout=CANCEL_EVERY)
        if pending:
            _log.warning("source_stop_failed", source=self.name)


class Catalog:
    """All sources of a silo.

    Args:
        settings: the tables ``[data.NAME]``.
        directory: the directory to which relative paths are relative.
        limits: bounds on values.
        min_rows: the least number of rows of a source that is read.
    """

    def __init__(
        self,
        settings: Mapping[str, SourceSettings],
        directory: Path,
        *,
        limits: Limits = DEFAULT_LIMITS,
        min_rows: int = 0,
    ) -> None:
        self._min_rows = min_rows
        self._settings = settings
        self._directory = directory
        self._limits = limits
        self._open: dict[str, OpenSource] = {}
        self._counting: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open all sources concurrently; rows that take longer than ``COUNT_SECONDS`` are counted in the background.

        Raises:
            ConfigError: a source's settings are wrong.
            SourceError: a source cannot be opened. If several fail, the first of them in the settings raises.
        """
        opening = [OpenSource.open(name, source, self._directory) for name, source in self._settings.items()]
        results = await asyncio.gather(*opening, return_exceptions=True)
        self._open = {source.name: source for source in results if isinstance(source, OpenSource)}
        for result in results:
            if isinstance(result, BaseException):
                await self.close()
                raise result
        self._counting = [asyncio.create_task(self._count(source)) for source in self._open.values()]
        if self._counting:
            await asyncio.wait(self._counting, timeout=COUNT_SECONDS)

    @property
    def announced(self) -> dict[str, Source]:
        """The current description of each source, by name."""
        return {name: source.announced for name, source in self._open.items()}

    async def load(self, op: Data, clients: int) -> bytes:
        """See :meth:`OpenSource.load`.

        Raises:
            SourceError: the silo has no source of that name.
        """
        if op.name not in self._open:
            available = ", ".join(self._open) or "none"
            what = f"no source has that name (available: {available})"
            raise SourceError(op.name, what, hint="see silo.toml", problem=Problem.UNKNOWN_SOURCE)
        return await self._open[op.name].load(op, clients, self._limits, self._min_rows)

    async def close(self) -> None:
        """Close every source."""
        for task in self._counting:
            task.cancel()
        await asyncio.gather(*self._counting, return_exceptions=True)
        opened, self._open = self._open, {}
        await asyncio.gather(*(source.close() for source in opened.values()))

    async def _count(self, source: OpenSource) -> None:
        try:
            rows = await source.count()
            _log.debug("rows_counted", source=source.name, rows=rows)
        except FedbrokerError as error:
            _log.warning("row_count_failed", source=source.name, reason=str(error))


async def _guarded(name: str, what: str, function: Callable[[], T]) -> T:
    """Call a source in a thread; convert unexpected exceptions to a SourceError, which names the source."""
    try:
        return await in_thread(function, f"{what} {name}")
    except (SourceError, ConfigError):
        raise
    except Exception as error:
        hint = "see the package that brings this kind of source"
        raise SourceError(name, _one_line(error), hint=hint, problem=Problem.UNREADABLE) from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
