"""Errors inside a silo, placed in the tree of :mod:`fedbroker.errors` by the person who can act on them.

FedbrokerError
├── ConfigError
│   ├── SettingsError        you: silo.toml or an environment variable
│   ├── UnknownSource        you: no such kind of data source is installed
│   └── ControlDenied        you: only the user of a silo's service and root may control it
└── SiloError
    ├── SourceError          the silo's administrator: a source cannot be opened or read
    │   └── ColumnError      a column is missing, holds NULLs, or does not fit the requested dtype
    ├── WorkRefused          the coordinator's programmer: an inconsistent work item
    │   └── PolicyRefused    the silo's administrator: [policy] refuses it; names the rule
    ├── AuditDamaged         the silo's administrator: the audit log was changed or damaged
    ├── SessionLost          no action: the values of a session are gone; run the computation again
    ├── ServiceNotRunning    the silo's administrator: no service with these settings runs on this machine
    └── ControlFailed        the silo's administrator: the service did not do what the command line asked for
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from fedbroker.errors import ConfigError, FedbrokerError, SiloError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AuditDamaged",
    "ColumnError",
    "ControlDenied",
    "ControlFailed",
    "PolicyRefused",
    "ServiceNotRunning",
    "SessionLost",
    "SettingsError",
    "SourceError",
    "UnknownSource",
    "WorkRefused",
]

_CAST = "ask for another dtype, or cast it in the silo's query"


class Problem(Enum):
    """A problem of a source or a column, as coordinators see it.

    Attributes:
        sentence: follows the name of the source or the column; ``{dtype}`` and ``{limit}`` are its only variables.
        advice: how to solve it; empty if only the silo's administrator can tell.
    """

    # of a source
    UNREADABLE = "cannot be read"
    UNREACHABLE = "cannot be reached", "try again later"
    UNAUTHORISED = "refuses access to the silo"
    BUSY = "is busy", "try again later"
    MISCONFIGURED = "has wrong settings"
    CLOSED = "is closed", "run the computation again"
    INTERRUPTED = "was interrupted while it was read", "run the computation again"
    UNKNOWN_SOURCE = "does not exist at this silo"
    UNEQUAL_LENGTHS = "has columns of different lengths"
    NO_COLUMNS = "has no columns"
    NOT_ONE_ROW = (
        "does not have exactly one row for each client where the computation takes one",
        "aggregate in the silo's query, or declare columns in the computation",
    )
    OTHER_CLIENTS = "has rows of clients that it did not announce", "start the silo again"
    TOO_LARGE = "takes more than the limit of {limit} bytes", "select fewer columns or rows in the silo's query"
    # of a column
    UNUSABLE = "cannot be used"
    UNKNOWN_COLUMN = "does not exist"
    NO_VALUE = "has cells without a value", "leave their rows out, or replace them, in the silo's query"
    RAGGED = "has rows of different lengths", "pad or cut them to one length in the silo's query"
    MIXED = "holds cells of different kinds", "cast it in the silo's query"
    MISFIT = "holds a value that is not of its announced type", "correct it, or its type in the silo's settings"
    NO_COUNTERPART = "is of an unsupported type", "cast it in the silo's query, or leave it out"
    NO_TYPE = "has no value from which to infer its type", "set its type in the silo's settings"
    NOT_ROWS = "is not one value for each row"
    NOT_CONVERTIBLE = "does not convert to {dtype}", _CAST
    OUT_OF_RANGE = "holds a number that {dtype} cannot hold", "ask for a wider dtype, or scale it in the silo's query"
    NOT_UNICODE = "holds text that is not valid Unicode", "correct it, or leave its rows out, in the silo's query"
    CHANGED = "is not as it was announced", "start the silo again"
    TWICE = "occurs twice in the source", "give one of them another name"
    NOT_KEYS = "cannot tell clients apart", "correct 'clients' in the silo's settings"

    def __init__(self, sentence: str, advice: str = "") -> None:
        self.sentence = sentence
        self.advice = advice


class SettingsError(ConfigError):
    """A key or a value of the silo's settings is wrong, missing or unknown."""

    code = "FB4201"


class UnknownSource(ConfigError):
    """No data source of that kind is installed.

    Attributes:
        kind: the kind in the settings.
        installed: the installed kinds.
    """

    code = "FB4202"

    def __init__(self, name: str, kind: str, installed: Sequence[str]) -> None:
        super().__init__(
            f"[data.{name}] asks for a source {kind!r}, which is not installed (installed: {', '.join(installed)})",
            hint="correct `source`, or install the package that brings it",
        )
        self.kind = kind
        self.installed = tuple(installed)


class ControlDenied(ConfigError):
    """The user of this process may not control the silo: only the user of its service and root may."""

    code = "FB4210"


class _Local(SiloError):
    """A silo's error as the silo itself shows it: its text names no silo, session or stage; the log does."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        FedbrokerError.__init__(self, what, hint=hint)
        self.silo = ""
        self.stage = None
        self.session = None
        self.cause = what


class SourceError(_Local):
    """A data source cannot be opened or read.

    ``what`` and ``hint`` may hold data, paths and messages of other software: they are only for the silo's own terminal
    and log. A coordinator learns only ``problem``.

    Attributes:
        source: its name in the settings.
        problem: the public description, which may leave the silo.
        dtype: the requested dtype, if the problem names one.
        limit: a number of bytes, if the problem names one.
    """

    code = "FB4203"

    def __init__(
        self,
        source: str,
        what: str,
        *,
        hint: str = "",
        problem: Problem = Problem.UNREADABLE,
        dtype: str = "",
        limit: int = 0,
    ) -> None:
        super().__init__(f"source {source!r}: {what}", hint=hint)
        self.source = source
        self.problem = problem
        self.dtype = dtype
        self.limit = limit


class ColumnError(SourceError):
    """A column cannot be used as it is.

    Attributes:
        column: its name.
        others: the errors of further columns, for which it stands, too.
    """

    code = "FB4204"

    def __init__(
        self,
        source: str,
        column: str,
        what: str,
        *,
        hint: str = "",
        problem: Problem = Problem.UNUSABLE,
        dtype: str = "",
    ) -> None:
        super().__init__(source, f"column {column!r} {what}", hint=hint, problem=problem, dtype=dtype)
        self.column = column
        self.others: tuple[ColumnError, ...] = ()
        self._own = (f"column {column!r} {what}", hint)  # without the others'

    @property
    def parts(self) -> tuple[ColumnError, ...]:
        """The error of each column: this one, and the others."""
        return (self, *self.others)

    @classmethod
    def joined(cls, errors: Sequence[ColumnError]) -> ColumnError:
        """Return one error for several columns; its fields are those of the first, its line names all of them."""
        first, *others = errors
        if others:
            first.others = tuple(others)
            texts = [error._own[0] for error in errors]
            hints = dict.fromkeys(error._own[1] for error in errors if error._own[1])
            first.what = first.cause = f"source {first.source!r}: {'; '.join(texts)}"
            first.hint = "; ".join(hints)
        return first


class WorkRefused(_Local):
    """A work item contradicts itself, its session or the limits; it was not run, or not to its end.

    Attributes:
        by_data: True if the refusal may depend on the data, as with the size of a result.
    """

    code = "FB4205"

    def __init__(self, what: str, *, hint: str = "", by_data: bool = False) -> None:
        super().__init__(what, hint=hint)
        self.by_data = by_data


class SessionLost(_Local):
    """A session is unknown here, or its values were lost when the C++ runtime ended."""

    code = "FB4206"


class PolicyRefused(WorkRefused):
    """The silo's policy does not allow a work item.

    Attributes:
        rule: the key of ``[policy]`` that refuses it.
    """

    code = "FB4207"

    def __init__(self, rule: str, what: str, *, hint: str = "", by_data: bool = False) -> None:
        super().__init__(what, hint=hint, by_data=by_data)
        self.rule = rule


class AuditDamaged(_Local):
    """A line of the audit log differs from the line that the silo wrote.

    Attributes:
        line: its number, from 1.
    """

    code = "FB4208"

    def __init__(self, line: int, what: str, *, hint: str = "") -> None:
        super().__init__(f"line {line} of the audit log {what}", hint=hint)
        self.line = line


class ServiceNotRunning(_Local):
    """No process of the silo listens at its control socket."""

    code = "FB4209"


class ControlFailed(_Local):
    """The silo's process did not answer at its control socket, or could not do what it was asked."""

    code = "FB4211"
