"""Record the functions of fedbroker that this process passes: a profile hook for all threads that start after it."""

from __future__ import annotations

import sys
import threading
from functools import reduce
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OURS = (f"{ROOT / 'fedbroker'}/", f"{ROOT / 'workers' / 'fedbroker_worker'}/")
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


class Function(NamedTuple):
    """A function as the interpreter names it: one name counts once per file, and so does a kind of comprehension."""

    file: str
    name: str

    @property
    def comprehension(self) -> bool:
        """Return whether it is a part of the function around it."""
        return self.name in COMPREHENSIONS


class Calls:
    """The functions that this process passes, round by round.

    Each round is recorded on its own. :meth:`common` keeps what every round has passed, so that the heartbeats,
    announcements and timers that happen to fall into one round do not count.
    """

    def __init__(self) -> None:
        self._current: set[CodeType] | None = None
        self._rounds: list[set[CodeType]] = []

    def install(self) -> None:
        """Hook this thread and all threads that start from now on."""
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)

    def remove(self) -> None:
        """Remove the hook from this thread and from threads that start from now on."""
        threading.setprofile(None)
        sys.setprofile(None)

    def start(self) -> None:
        """Begin a round."""
        self._current = set()

    def stop(self) -> None:
        """End a round."""
        if self._current is None:
            raise RuntimeError("no round was started")
        self._rounds.append(self._current)
        self._current = None

    def common(self) -> list[Function]:
        """Return our own functions that every round has passed, sorted."""
        codes = reduce(set.intersection, self._rounds)
        ours = (code for code in codes if code.co_filename.startswith(OURS) and code.co_name != "<module>")
        return sorted({Function(str(Path(code.co_filename).relative_to(ROOT)), code.co_name) for code in ours})

    def _hook(self, frame: FrameType, event: str, _: object) -> None:
        current = self._current
        if event == "call" and current is not None:
            current.add(frame.f_code)
