"""Errors inside a silo, placed in the tree of :mod:`fedbroker.errors` by the person who can act on them.

FedbrokerError
├── ConfigError
│   ├── SettingsError        you: silo.toml or an environment variable
│   └── UnknownSource        you: no such kind of data source is installed
└── SiloError
    ├── SourceError          the silo's administrator: a source cannot be opened or read
    │   └── ColumnError      a column is missing, holds NULLs, or does not fit the requested dtype
    ├── WorkRefused          the coordinator's programmer: an inconsistent work item
    │   └── PolicyRefused    the silo's administrator: [policy] refuses it; names the rule
    ├── AuditDamaged         the silo's administrator: the audit log was changed or damaged
    └── SessionLost          no action: the values of a session are gone; run the computation again
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedbroker.errors import ConfigError, FedbrokerError, SiloError
from fedbroker_worker.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AuditDamaged",
    "ColumnError",
    "PolicyRefused",
    "SessionLost",
    "SettingsError",
    "SourceError",
    "UnknownSource",
    "WorkRefused",
]


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
