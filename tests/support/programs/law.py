"""The law of generated programs: a plan's result is that of NumPy, and of TFF's own context where that can run it.

Programs with secure sums have it in plaintext and with masked sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.programs.model import Program
from tests.support.programs.running import Wrong, check, load, skeleton
from tests.support.programs.tff_process import TffCrashed, TffFailed, TffProcess

__all__ = ["Failure", "Law"]


@dataclass(frozen=True)
class Failure:
    """A program that breaks the law.

    Attributes:
        side: ``fedbroker`` or ``TFF``.
        text: the error.
        program: the smallest one found with an error on that side.
    """

    side: str
    text: str
    program: Program

    def __str__(self) -> str:
        kinds = ", ".join(step.kind for step in self.program.steps)
        return f"{self.side}: {self.text}\nsteps: {kinds}\n\n{self.program.source}"


class Law:
    """Runs programs on both sides.

    Args:
        direct: runs a computation on silos without a broker.
        masked: runs it on silos with masked sums.
        tff: runs sources on TFF's own contexts.
    """

    def __init__(self, direct: Callable[..., Any], masked: Callable[..., Any], tff: TffProcess) -> None:
        self._direct = direct
        self._masked = masked
        self._tff = tff
        self.compared_with_tff = 0

    def smallest_failure(self, program: Program) -> Failure | None:
        """Return the failure of a program, or of a part of it that fails on the same side; None if the law holds."""
        failure = self.failure(program)
        if failure is None:
            return None
        smaller = (self.failure(part) for part in program.cut())
        return next((one for one in smaller if one is not None and one.side == failure.side), failure)

    def failure(self, program: Program) -> Failure | None:
        """Return the failure of a program, or None if the law holds."""
        source, asks_tff = program.source, not program.beyond
        if asks_tff:
            self._tff.send(source, secure=program.secure)
        result = failure = None
        try:
            comp, args = load(source)
            secure_sum = "plaintext" if program.secure else "refuse"
            result = self._direct(comp, *args, silos=program.silos, secure_sum=secure_sum)
            check(program, result)
            if program.secure:
                check(program, self._masked(comp, *args, silos=program.silos))
        except Exception as error:  # each error of a generated program is a finding
            failure = Failure("fedbroker", f"{type(error).__name__}: {error}", program)
        if not asks_tff:
            return failure
        try:
            theirs = self._tff.receive()
            check(program, theirs)
        except (Wrong, TffFailed, TffCrashed) as error:
            return failure or Failure("TFF", f"{type(error).__name__}: {error}", program)
        self.compared_with_tff += 1
        if failure is None and skeleton(result) != skeleton(theirs):
            return Failure("fedbroker", f"types are {skeleton(result)}, not {skeleton(theirs)}", program)
        return failure
