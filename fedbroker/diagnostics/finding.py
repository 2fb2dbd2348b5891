"""Findings of a diagnosis, one line each: ok, warning or problem; and how command lines print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, Self, TypeAlias

from fedbroker.console import exit_code
from fedbroker.errors import FedbrokerError
from fedbroker.text import printable, without_secrets

__all__ = ["Finding", "Level", "exit_code_of", "print_findings"]

Level: TypeAlias = Literal["ok", "warning", "problem"]

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ``ok``, ``warning`` for a possible error, or ``problem`` for an error.
        subject: the subject of the check, in a word or two.
        what: the result, one clause.
        code: code of the error that this is or may cause (``docs/errors.md``); empty for ``ok``.
        hint: the remedy, one clause; empty if none is needed.
        where: the host, if the URL names several; else empty.
        exit_code: exit code of a command line if this is its first problem.
    """

    level: Level
    subject: str
    what: str
    code: str = ""
    hint: str = ""
    where: str = ""
    exit_code: int = 0

    @classmethod
    def ok(cls, subject: str, what: str) -> Self:
        """Return the finding of a check that found no error."""
        return cls(level="ok", subject=subject, what=what)

    @classmethod
    def warning(cls, subject: str, error: FedbrokerError) -> Self:
        """Return a warning that this error may occur."""
        return cls(level="warning", subject=subject, what=error.what, code=error.code, hint=error.hint)

    @classmethod
    def problem(cls, subject: str, error: FedbrokerError) -> Self:
        """Return the finding of an error."""
        return replace(cls.warning(subject, error), level="problem", exit_code=exit_code(error))

    @property
    def line(self) -> str:
        """The finding on one line, without level and subject."""
        code = f"[{self.code}] " if self.code else ""
        where = f"{self.where}: " if self.where else ""
        hint = f"; {self.hint}" if self.hint else ""
        return without_secrets(" ".join(f"{code}{where}{self.what}{hint}".split()))

    def at(self, where: str) -> Self:
        """Return this finding, attributed to one of several hosts."""
        return replace(self, where=where)

    def as_json(self) -> dict[str, str]:
        """Return the fields as JSON, for programs."""
        fields = {name: without_secrets(value) for name, value in asdict(self).items() if isinstance(value, str)}
        return {"level": self.level, **fields}


def exit_code_of(findings: Iterable[Finding]) -> int:
    """Return the exit code of the first problem, or 0."""
    return next((finding.exit_code for finding in findings if finding.level == "problem"), 0)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print each finding as one line of any length on standard output, with colours on a terminal only."""
    from rich.console import Console
    from rich.text import Text

    out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    width = max((len(finding.subject) for finding in findings), default=0)
    for finding in findings:
        level = (f"{finding.level:<8}", _STYLES[finding.level])
        out.print(Text.assemble(level, f" {finding.subject:<{width}}  {printable(finding.line)}"))
