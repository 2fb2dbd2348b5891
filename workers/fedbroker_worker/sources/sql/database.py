"""One database through SQLAlchemy 1.4 or 2: a connection for each call, rows in batches, read only."""

from __future__ import annotations

import contextlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Connection, Engine, Result, make_url
from sqlalchemy.pool import NullPool

from fedbroker.text import ESCAPES, without_secrets
from fedbroker_worker.errors import ColumnError, Problem, SettingsError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from fedbroker_worker.threads import Call

__all__ = ["Database", "Rows", "database_at"]

_PROGRESS: Final = 100_000
"""Instructions of SQLite's virtual machine between two checks for cancellation: a few milliseconds."""

# Rows are fetched in batches, not all at once; and without parameters, a % in the query needs no escape.
_OPTIONS: Final = {"stream_results": True, "no_parameters": True}
_KEYS: Final = 10_000
"""The number of clients' keys in a batch of rows, the same as the default of ``batch_rows``."""

_FORM: Final = f"write it as SQLAlchemy does: postgresql://user:password@host/database; {ESCAPES}"


class Rows:
    """The rows of a query, a batch at a time.

    Args:
        result: SQLAlchemy's result.
        names: the names of the columns.
        size: the number of rows in a batch.
        call: the running call, which may be cancelled.
    """

    def __init__(self, result: Result, names: Sequence[str], size: int, call: Call) -> None:
        self.names = names
        self._result = result
        self._size = size
        self._call = call

    def next(self) -> Sequence[Sequence[object]]:
        """Return the next batch: a full one, or fewer rows or none at the end and after the call was cancelled."""
        rows: Sequence[Sequence[object]] = () if self._call.cancelled else self._result.fetchmany(self._size)
        return rows


@dataclass(frozen=True, slots=True)
class Database:
    """A database.

    Attributes:
        source: the source's name, for errors.
        engine: SQLAlchemy's engine.
        secrets: texts that no error may quote.
    """

    source: str
    engine: Engine = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    @contextmanager
    def rows(self, query: str, call: Call, size: int) -> Generator[Rows]:
        """Run a query and yield its rows, to be read within the block.

        Raises:
            SourceError: the database cannot be reached, or refuses the query.
            ColumnError: two columns have one name.
        """
        with self._connected(call) as connection:
            result = connection.execution_options(max_row_buffer=size).exec_driver_sql(query)
            names = list(map(str, result.keys()))
            for at, name in enumerate(names):
                if name in names[:at]:
                    hint = "give one of them another name in the query, by `as`"
                    raise ColumnError(self.source, name, "occurs twice in the query", hint=hint, problem=Problem.TWICE)
            yield Rows(result, names, size, call)

    def count(self, query: str, call: Call) -> int:
        """Return the number of rows that the query yields.

        Raises:
            SourceError: as :meth:`rows`.
        """
        with self._connected(call) as connection:
            counted = f"select count(*) from ({query}\n) q"  # the administrator's own query  # nosec B608
            return int(connection.exec_driver_sql(counted).scalar())

    def distinct(self, query: str, column: str, call: Call) -> list[object]:
        """Return the values of a column, each once; None among them if the column has NULLs.

        Raises:
            SourceError: as :meth:`rows`.
        """
        name = self.engine.dialect.identifier_preparer.quote(column)
        keys: list[object] = []
        distinct = f"select distinct {name} from ({query}\n) q"  # as above; the name is quoted  # nosec B608
        with self.rows(distinct, call, _KEYS) as rows:
            while batch := rows.next():
                keys += [row[0] for row in batch]
        return keys

    @contextmanager
    def _connected(self, call: Call) -> Generator[Connection]:
        """Connect for one call, whose cancellation cancels the query; convert SQLAlchemy's errors. Never commit."""
        cancel = None
        try:
            with contextlib.closing(self.engine.connect()) as connection:
                cancel = _canceller(connection.connection.driver_connection, call)
                call.on_cancel(cancel)
                if call.cancelled:
                    raise SourceError(self.source, "reading was interrupted", problem=Problem.INTERRUPTED)
                yield connection.execution_options(**_OPTIONS)
        except exc.SQLAlchemyError as error:
            raise SourceError(
                self.source,
                self._driver_message(error),
                hint="correct its query or its url",
                problem=Problem.UNREADABLE,
            ) from None
        finally:
            if cancel is not None:
                call.off_cancel(cancel)

    def _driver_message(self, error: exc.SQLAlchemyError) -> str:
        """Return the first line of the driver's message, without the query, its values and the password."""
        message = str(getattr(error, "orig", None) or error).strip().split("\n", 1)[0]
        for secret in self.secrets:
            message = message.replace(secret, "***")
        return without_secrets(" ".join(message.split()))


def database_at(source: str, url: str, directory: Path) -> Database:
    """Return the database at a URL, without connecting to it.

    Args:
        source: the source's name, for errors.
        url: a URL in SQLAlchemy's format; no error quotes it.
        directory: the directory to which the relative path of an SQLite file is relative.

    Raises:
        SettingsError: the URL is malformed, or no driver for it is installed.
    """
    label = f"the database's URL in [data.{source}]"
    parsed = _parsed(label, url)
    try:
        is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
        if is_file and not str(parsed.database).startswith("file:"):
            parsed = parsed.set(database=str(_existing(label, directory / str(parsed.database))))
        engine: Engine = create_engine(parsed, poolclass=NullPool)
    except exc.NoSuchModuleError:
        what = f"{label} begins with {url.split(':', 1)[0]!r}, which is not an installed dialect"
        raise SettingsError(
            what, hint="write postgresql, mysql, sqlite, …, or install the package that brings it"
        ) from None
    except ImportError as error:
        what = f"{label} needs the driver {error.name}, which is not installed"
        raise SettingsError(
            what, hint="install it, or name another in the URL, such as postgresql+psycopg2://"
        ) from None
    except (exc.ArgumentError, ValueError):
        raise SettingsError(f"{label} is malformed", hint=_FORM) from None
    if getattr(engine.dialect, "is_async", False):
        hint = "name one that is not, as in postgresql+psycopg2://"
        raise SettingsError(f"{label} names the driver {engine.dialect.driver}, which is for asyncio", hint=hint)
    secrets = (parsed.password, parsed.query.get("password"))
    return Database(source, _reading_only(engine), tuple(str(secret) for secret in secrets if secret))


def _parsed(label: str, url: str) -> URL:
    """Parse the URL; refuse an unescaped ``@``, which would move a piece of the login into the host.

    Drivers quote hosts and databases in their messages, and these are shown.
    """
    parsed = None
    with contextlib.suppress(exc.ArgumentError, ValueError):  # the exception's text may show the password
        parsed = make_url(url)
    if parsed is None:
        raise SettingsError(f"{label} is malformed", hint=_FORM)
    _, _, rest = url.partition("://")
    has_login = parsed.username is not None or parsed.password is not None
    if not rest.startswith("/") and rest.count("@") > has_login:
        raise SettingsError(f"{label} has an @ where no login ends", hint=ESCAPES)
    return parsed


def _existing(label: str, path: Path) -> Path:
    # sqlite3 would create an empty database.
    if not path.exists():
        raise SettingsError(f"{label}: {path} does not exist", hint="correct it")
    return path


def _reading_only(engine: Engine) -> Engine:
    """Return the engine; with PostgreSQL and SQLite, the database itself then refuses to write."""
    match engine.dialect.name:
        case "postgresql":
            return engine.execution_options(postgresql_readonly=True)
        case "sqlite":
            event.listen(engine, "connect", lambda connection, _: connection.execute("pragma query_only = on").close())
        case _:
            pass
    return engine


def _canceller(connection: object, call: Call) -> Callable[[], None]:
    """Return a function that cancels the connection's query; if the driver cannot, the call's thread is abandoned."""
    if callable(watch := getattr(connection, "set_progress_handler", None)):  # sqlite3's
        watch(lambda: call.cancelled, _PROGRESS)
        return lambda: None

    def cancel() -> None:
        with contextlib.suppress(Exception):
            connection.cancel()  # type: ignore[attr-defined]  # psycopg, oracledb and others have it

    return cancel
