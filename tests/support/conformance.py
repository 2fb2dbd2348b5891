"""Comparison of TFF's own local context with a cohort, and the compatibility page made of the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.local_tff import assert_close, assert_same, pack_arguments

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

GROUPS = {
    "intrinsics": "Intrinsics",
    "types": "Types and values",
    "learning": "`tff.learning`",
    "aggregators": "Aggregators",
    "analytics": "`tff.analytics`",
    "secure": "Secure sums",
    "program": "`tff.program`",
    "mapreduce": "`tff.backends.mapreduce`",
    "tutorials": "TFF's tutorials",
    "clients": "Clients and silos",
    "refused": "What does not run",
}

HEAD = """\
# Compatibility

`make compatibility` writes this page from the tests in `tests/conformance`. They run each row on TFF's own local
context and on a cohort of three silos, and compare values, types and containers.

- *Barriers* is the number of times that the coordinator waits for the silos in one invocation: of a process, in one
  round.
- Values are equal bit for bit unless the note says `close`. Where several clients share a silo, or a merge is not
  associative in floating point, sums are taken in another order.
"""


@dataclass(frozen=True)
class Row:
    """One row of the page."""

    group: str
    feature: str
    works: str
    barriers: str
    note: str

    @property
    def text(self) -> str:
        return f"| {self.feature} | {self.works} | {self.barriers} | {self.note} |"


@dataclass
class ResultRecord:
    """Results of one test run."""

    rows: list[Row] = field(default_factory=list)

    def page(self) -> str:
        parts = [HEAD]
        for group, title in GROUPS.items():
            rows = sorted({row.text for row in self.rows if row.group == group})
            if rows:
                parts.append(
                    f"## {title}\n\n| feature | works | barriers | note |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
                )
        return "\n".join(parts)


class Comparison:
    """Runs a computation on both contexts and compares. One for each test.

    Args:
        ours: a context on a cohort.
        theirs: TFF's own local context.
    """

    def __init__(self, ours, theirs) -> None:
        self.ours = ours
        self.theirs = theirs
        self.barriers: list[int] = []
        self.refused = False
        self.close = False
        self.note = ""

    def __call__(self, comp, *args, rtol: float | None = None):
        """Run a computation on the cohort, then locally; check that the results are equal, or within ``rtol``."""
        found, expected = self.run_ours(comp, *args), self.run_theirs(comp, *args)
        if rtol is None:
            assert_same(found, expected)
        else:
            self.close = True
            assert_close(found, expected, rtol)
        return found

    def run_ours(self, comp, *args):
        self.barriers.append(self.ours.explain(comp).round_trips)
        return self.ours.invoke(comp, pack_arguments(comp, args))

    def run_ours_unexplained(self, comp, *args):
        """Run a computation without explaining its plan first."""
        return self.ours.invoke(comp, pack_arguments(comp, args))

    def run_theirs(self, comp, *args):
        return self.theirs.invoke(comp, pack_arguments(comp, args))

    def beyond(self, expected, comp, *args):
        """Check a computation that fails on TFF's own context and succeeds on the cohort."""
        self.note = "TFF's own context fails"
        with pytest.raises(Exception):  # noqa: B017, PT011  # any error
            self.run_theirs(comp, *args)
        assert_same(self.run_ours(comp, *args), expected)

    def rounds(self, process, data, *, rounds: int = 2, rtol: float | None = None):
        """Run an iterative process (initialize, then rounds of next), compare each output, and return the last one."""
        state = self(process.initialize)
        output = None
        for _ in range(rounds):
            output = self(process.next, state, *data, rtol=rtol)
            state = output.state
        return output

    def refuses(self, kind: type[Exception], match: str, comp, *args):
        """Check that the cohort's context raises; before anything is sent, if ``kind`` is a PlanError."""
        self.refused = True
        with pytest.raises(kind, match=match) as caught:
            self.ours.invoke(comp, pack_arguments(comp, args))
        return caught.value

    def row(self, group: str, feature: str, note: str) -> Row:
        words = [word for word in (note, self.note, "close" if self.close else "") if word]
        shown = "-" if self.refused else str(max(self.barriers, default=0))
        return Row(group, feature, "no" if self.refused else "yes", shown, "; ".join(words))


class MaskedComparison(Comparison):
    """Runs secure sums masked, and in plaintext on the same cohort: both have the same bits.

    Args:
        masked: a context that masks secure sums.
        plaintext: a context of the same cohort that computes them in plaintext.
        theirs: TFF's test context, which computes them in plaintext.

    Attributes:
        random: True if the computation draws random numbers, so that no two runs are equal.
    """

    def __init__(self, masked, plaintext, theirs) -> None:
        super().__init__(masked, theirs)
        self.plaintext = plaintext
        self.random = False

    def run_ours(self, comp, *args):
        found = super().run_ours(comp, *args)
        if not self.random:
            assert_same(found, self.plaintext.invoke(comp, pack_arguments(comp, args)))
        return found

    def run_ours_unexplained(self, comp, *args):
        return self.run_ours(comp, *args)


def feature(group: str, name: str, note: str = "") -> Callable:
    """Mark a test as one row of the page."""
    assert group in GROUPS, group
    return pytest.mark.feature(group, name, note)
