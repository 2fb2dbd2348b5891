"""The client stages of a session on the board, with a bar for each silo. Plain state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from fedbroker.board.views import BarOutcome, BarView, StageView

__all__ = ["Stage", "number", "text"]

DEFAULT_STAGE_SECONDS: Final = 3600.0
"""Assumed limit of a stage whose start was not seen, and of the coordinator's own work between stages."""


def number(details: dict[str, Any], name: str, default: float = 0.0) -> float:
    """Return a number of an event's details that is not negative, or the default."""
    value: object = details.get(name)
    return max(0.0, float(value)) if isinstance(value, int | float) else default


def text(details: dict[str, Any], name: str) -> str:
    """Return a text of an event's details, or an empty one."""
    value: object = details.get(name)
    return value if isinstance(value, str) else ""


@dataclass(slots=True)
class Stage:
    """A client stage; times are seconds since the session's start.

    Attributes:
        session: the session's id.
        number: the stage's number.
        seconds: its time limit.
        bars: a bar for each silo that was asked.
        waiting: the silos without a reply.
        changed: silos whose bars have changed, until taken.
    """

    session: str
    number: int
    began: float
    needed: int = 0
    masked: bool = False
    seconds: float = DEFAULT_STAGE_SECONDS
    ended: float | None = None
    answered: int = 0
    bars: dict[str, BarView] = field(default_factory=dict[str, BarView])
    waiting: dict[str, None] = field(default_factory=dict[str, None])
    changed: dict[str, None] = field(default_factory=dict[str, None])

    @property
    def view(self) -> StageView:
        """The stage as it is shown."""
        return StageView(
            session=self.session,
            stage=self.number,
            began=self.began,
            ended=self.ended,
            needed=self.needed,
            silos=len(self.bars),
            answered=self.answered,
            masked=self.masked,
        )

    @property
    def missing(self) -> int:
        """Number of replies that it needs before it may close."""
        return (self.needed or len(self.bars)) - self.answered

    def ask(self, silo: str, at: float) -> None:
        """Add a silo that was asked."""
        self._put(
            BarView(
                session=self.session,
                stage=self.number,
                silo=silo,
                began=at,
                queue=0.0,
                transfer=0.0,
                compute=0.0,
                total=0.0,
                outcome="waiting",
                why="",
                bytes_in=0,
                bytes_out=0,
            )
        )

    def reply(self, silo: str, outcome: BarOutcome, details: dict[str, Any]) -> None:
        """Record how a silo's part ended."""
        asked = self.bars.get(silo)
        began = self.began if asked is None else asked.began
        self.answered += outcome == "answered"
        self._put(
            BarView(
                session=self.session,
                stage=self.number,
                silo=silo,
                began=began,
                queue=number(details, "queue"),
                transfer=number(details, "transfer"),
                compute=number(details, "compute"),
                total=max(0.0, self.began + number(details, "seconds") - began),
                outcome=outcome,
                why=text(details, "why"),
                bytes_in=int(number(details, "bytes_in")),
                bytes_out=int(number(details, "bytes_out")),
            )
        )

    def end(self, at: float, rest: BarOutcome) -> None:
        """Close the stage; ``rest`` is the outcome of the silos without a reply."""
        self.ended = at
        for silo in self.waiting:
            bar = self.bars[silo]
            self._put(msgspec.structs.replace(bar, outcome=rest, total=max(0.0, at - bar.began)))

    def _put(self, bar: BarView) -> None:
        self.bars[bar.silo] = bar
        self.changed[bar.silo] = None
