"""Runs: the rounds of one program, so that displays, events and trackers can name its sessions."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Literal, Self, SupportsFloat, TypeAlias, Unpack, cast

from fedbroker.errors import UsageError
from fedbroker.session.events import Event, EventDetails, EventName, Origin

__all__ = ["Metrics", "OnRound", "Run", "current_run", "flat_metrics", "run_of"]

Metrics: TypeAlias = Mapping[str, Any]
"""Metrics of a round, as TFF returns them: numbers by name, in any nesting of mappings, tuples and lists."""

OnRound: TypeAlias = Callable[[int, Mapping[str, float]], object]
"""Function that is called after each round with its number and its metrics: ``on_round(3, {"train/loss": 0.2})``."""

_current: ContextVar[Run | None] = ContextVar("fedbroker_run", default=None)


class Run:
    """One run of a program: its name, its rounds, and the invocations in its ``with`` block.

    Made by :meth:`fedbroker.SyncBrokerContext.run`. Iterate over it to get the numbers of its rounds, and call
    :meth:`report` once in each.

    Attributes:
        id: id of the run, 16 hexadecimal digits.
        program: name of the program.
        rounds: number of rounds, or None.
    """

    def __init__(
        self,
        program: str,
        rounds: int | None,
        start: int,
        on_round: OnRound | Sequence[OnRound],
        *,
        owner: object,
        emit: Callable[[Event], None],
    ) -> None:
        if not program:
            raise UsageError("a run needs a name", hint='name the program, as in context.run("digits")')
        for name, number in (("rounds", rounds), ("start", start)):
            if number is not None and number < 1:
                raise UsageError(f"{name}={number!r} is not a positive number", hint="rounds are counted from 1")
        self.id = uuid.uuid4().hex[:16]
        self.program = program
        self.rounds = rounds
        self.owner = owner
        self.outer: Run | None = None
        self._on_round = (on_round,) if callable(on_round) else tuple(on_round)
        self._emit_event = emit
        self._began = 0.0
        self._next = start  # the round that runs, or the next one between two rounds
        self._token: Token[Run | None] | None = None

    @property
    def round(self) -> int:
        """The number of the round that runs, from 1."""
        return self._next

    def report(self, metrics: Metrics | None = None, round: int | None = None) -> None:
        """End a round: pass its metrics to displays, listeners and ``on_round``.

        An exception of ``on_round`` ends the round's code as any other exception there.

        Args:
            metrics: numbers by name, in any nesting; it becomes part of their names: ``train/loss``. Matrices, texts
                and all else that is not one number are left out.
            round: the number of the round; None for the next one.

        Raises:
            UsageError: the number is not positive.
            ContextClosed: the run's context was closed.
        """
        number = self._next if round is None else round
        if number < 1:
            raise UsageError(f"round={number!r} is not a positive number", hint="rounds are counted from 1")
        flat = flat_metrics(metrics or {})
        self._finish(number, flat)
        for on_round in self._on_round:
            on_round(number, flat)

    def __iter__(self) -> Iterator[int]:
        """Yield the number of each round up to ``rounds``, without end if that is None.

        A round that was not reported has finished, without metrics, when the next one starts.
        """
        for number in itertools.count(self._next) if self.rounds is None else range(self._next, self.rounds + 1):
            self._next = number
            yield number
            if self._next == number:
                self._finish(number, {})

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._emit("run_started")
        self.outer = _current.get()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        outcome: Literal["ok", "failed", "cancelled"] = "ok" if error is None else "failed"
        if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            outcome = "cancelled"
        self._emit("run_finished", seconds=time.monotonic() - self._began, outcome=outcome)

    def __repr__(self) -> str:
        rounds = "" if self.rounds is None else f" of {self.rounds}"
        return f"Run({self.program!r}, round {min(self._next, self.rounds or self._next)}{rounds})"

    def _finish(self, number: int, metrics: dict[str, float]) -> None:
        self._next = number + 1
        self._emit("round_finished", round=number, metrics=metrics)

    def _emit(self, name: EventName, **details: Unpack[EventDetails]) -> None:
        about: EventDetails = {"run": self.id, "program": self.program}
        if self.rounds is not None and name != "run_finished":
            about["rounds"] = self.rounds
        self._emit_event(Event(name, details={**about, **details}))


def current_run() -> Run | None:
    """Return the run in whose ``with`` block the caller is, the innermost one; None outside of any."""
    return _current.get()


def run_of(owner: object) -> Run | None:
    """Return the innermost run of one context in whose ``with`` block the caller is."""
    run = _current.get()
    while run is not None and run.owner is not owner:
        run = run.outer
    return run


def origin_of(owner: object, computation: str) -> Origin:
    """Return the origin of a session of that computation."""
    run = run_of(owner)
    return Origin(computation) if run is None else Origin(computation, run.id, run.program, run.round)


def flat_metrics(metrics: object, prefix: str = "") -> dict[str, float]:
    """Return the numbers in any nesting of mappings, tuples and lists, by names such as ``train/loss``."""
    if isinstance(metrics, Mapping):
        items = list(cast("Mapping[object, object]", metrics).items())
    elif isinstance(metrics, (tuple, list)):
        names = getattr(cast("object", metrics), "_fields", None)
        values = cast("Sequence[object]", metrics)
        items = list(zip(names or range(len(values)), values, strict=True))
    else:
        number = _number(metrics)
        return {} if number is None else {prefix: number}
    flat: dict[str, float] = {}
    for name, value in items:
        flat |= flat_metrics(value, f"{prefix}/{name}" if prefix else str(name))
    return flat


def _number(value: object) -> float | None:
    """Return the value of a Python, NumPy or TensorFlow scalar; None for all else."""
    if isinstance(value, (str, bytes)) or not isinstance(value, SupportsFloat):
        return None
    if len(getattr(value, "shape", ())):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # a tensor of texts
        return None
