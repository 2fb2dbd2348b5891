"""What an examination found, one line each: fine, worth a look, or in the way; and how command lines print it.

Imports the base only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, Self, TypeAlias

from fedbroker.console import exit_code
from fedbroker.errors import FedbrokerError
from fedbroker.printable import printable
from fedbroker.redact import without_secrets

__all__ = ["Finding", "Level", "exit_code_of", "print_findings"]

Level: TypeAlias = Literal["ok", "warning", "problem"]

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``; ``warning``: it works, but see what is said; ``problem``: it does not work like this.
        subject: what was looked at, in a word or two.
        what: what was found, one clause.
        code: of the error that it is or leads to (``docs/errors.md``); empty where all is well.
        hint: what to do, one clause; empty where there is nothing to do.
        where: which of several hosts; empty where there is one.
        exit_code: that a command line ends with if this is the first problem.
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
        """All is well."""
        return cls(level="ok", subject=subject, what=what)

    @classmethod
    def warning(cls, subject: str, error: FedbrokerError) -> Self:
        """What may lead to an error of that kind."""
        return cls(level="warning", subject=subject, what=error.what, code=error.code, hint=error.hint)

    @classmethod
    def problem(cls, subject: str, error: FedbrokerError) -> Self:
        """An error."""
        return replace(cls.warning(subject, error), level="problem", exit_code=exit_code(error))

    @property
    def line(self) -> str:
        """All of it but the level and the subject."""
        code = f"[{self.code}] " if self.code else ""
        where = f"{self.where}: " if self.where else ""
        hint = f"; {self.hint}" if self.hint else ""
        return without_secrets(" ".join(f"{code}{where}{self.what}{hint}".split()))

    def at(self, where: str) -> Self:
        """The same of one of several hosts."""
        return replace(self, where=where)

    def as_json(self) -> dict[str, str]:
        """For programs."""
        fields = {name: without_secrets(value) for name, value in asdict(self).items() if isinstance(value, str)}
        return {"level": self.level, **fields}


def exit_code_of(findings: Iterable[Finding]) -> int:
    """0, or that of the first problem."""
    return next((one.exit_code for one in findings if one.level == "problem"), 0)


def print_findings(findings: Sequence[Finding]) -> None:
    """A line for each on standard output, however long, with colours on a terminal only."""
    from rich.console import Console
    from rich.text import Text

    out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    width = max((len(one.subject) for one in findings), default=0)
    for one in findings:
        words = printable(one.line)
        out.print(Text.assemble((f"{one.level:<8}", _STYLES[one.level]), f" {one.subject:<{width}}  {words}"))
